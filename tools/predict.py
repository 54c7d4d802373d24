"""Predicts photographs and writes them in the standard format of the task.

  python -m tools.predict --checkpoint W --out DIR photo.jpg folder/ …

W is a run's workdir, a .npz (with --lm) or a published name such as
uvim-panoptic. DIR gets pictures to look at, the predictions themselves
(panoptic: COCO's JSON and PNGs; depth: 16-bit PNGs in millimetres;
colorization: RGB PNGs) and predictions.json with the codes and settings; see
uvim/inference/export.py. Needs no TensorFlow.
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tools import passes
from uvim import categories as categories_lib
from uvim.inference import export, images
from uvim.registry import ConfigError

EXIT_BAD_INPUT = 2


def choose_categories(path: str | None, dataset: str, num_classes: int
                      ) -> Sequence[Any] | None:
  """What the classes of a panoptic model stand for.

  Args:
    path: a JSON file with COCO's list of categories, or None to go by the
      data set.
    dataset: what the model learned from; "" where nobody knows, as of the
      published weights.
    num_classes: of the model, void not counted.

  Returns:
    Rows with .id, .name, .isthing; None: only numbers are known.

  Raises:
    ConfigError: no such file, or another number of categories.
  """
  from pp.rooms.things import CATEGORIES as ROOMS
  if path:
    out = _load_categories(path)
    if len(out) != num_classes:
      raise ConfigError(f"--categories {path}: lists {len(out)} categories, "
                        f"the model has {num_classes} classes.")
    return out
  coco = categories_lib.coco_panoptic()
  known = {"rooms": [categories_lib.Category(*row) for row in ROOMS],
           "coco/2017_panoptic": coco, "": coco}
  name = dataset.split(":")[0]
  out = known.get("rooms" if name.split("/")[0] == "rooms" else name)
  return out if out is not None and len(out) == num_classes else None


def _load_categories(path):
  try:
    return categories_lib.load(pathlib.Path(path))
  except (OSError, ValueError) as e:
    if isinstance(e, ConfigError):
      raise
    raise ConfigError(f"--categories {path}: cannot be read: {e}.") from e


def file_names(paths: Sequence[pathlib.Path]) -> list[str]:
  """A name for the files of each photograph: its own, numbered if taken."""
  out, taken = [], set()
  for path in paths:
    name, number = path.stem, 1
    while name.lower() in taken:  # Some disks do not tell a from A.
      number += 1
      name = f"{path.stem}_{number}"
    taken.add(name.lower())
    out.append(name)
  return out


def predict_files(uvim: Any, paths: Sequence[pathlib.Path], out: str, *,
                  categories: Sequence[Any] | None = None,
                  overwrite: bool = False, rerank: bool = False,
                  settings: dict[str, Any] | None = None,
                  **options: Any) -> list[str]:
  """Predicts each photograph and writes it before the next one is read.

  Args:
    uvim: `uvim.inference.api.UViM`.
    paths: photographs.
    out: folder.
    categories: see `choose_categories`.
    overwrite: replaces files that are there.
    rerank: keeps the likeliest of each photograph's samples only.
    settings: more entries for the settings in predictions.json.
    **options: of `UViM.predict`.

  Returns:
    A line for each photograph that could not be read; the others are done.

  Raises:
    ConfigError: an option out of its range; a file that is there or cannot be
      written.
  """
  num_samples = 1 if rerank else options.get("num_samples", 1)
  writer = export.Writer(out, uvim.task, num_samples=num_samples,
                         categories=categories, overwrite=overwrite)
  names = file_names(paths)
  writer.check(names)
  problems, made = [], options
  pairs = passes.progress(list(zip(names, paths, strict=True)),
                          total=len(paths), desc="Predicting", unit="photos")
  for name, path, photo in _readable(pairs, problems):
    prediction = uvim.predict(photo, **options)
    prediction = prediction.best() if rerank else prediction
    writer.add(name, prediction, str(path))
    made = prediction.settings
  if len(problems) < len(paths):
    writer.close({**(settings or {}), **made})
  return problems


def _readable(pairs, problems) -> Iterator[tuple[str, pathlib.Path, Any]]:
  for name, path in pairs:
    try:
      photo = images.read(path)
    except ConfigError as e:
      problems.append(str(e))
      continue
    yield name, path, photo


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m tools.predict", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  add = parser.add_argument
  add("photos", nargs="+", metavar="PHOTO", help="files and folders")
  add("--checkpoint", required=True, help="a workdir, .npz, address or name")
  add("--lm", help="stage II, where --checkpoint is stage I alone")
  add("--out", required=True, help="folder to write to")
  add("--overwrite", action="store_true", help="replace files that are there")
  add("--temperature", type=float, default=0.0,
      help="0: the likeliest word each time (default); 1: the model's own")
  add("--seed", type=int, default=0, help="default: 0")
  add("--num_samples", type=int, default=1, help="per photo; default: 1")
  add("--top_k", type=int, help="draw from the k likeliest words only")
  add("--top_p", type=float, help="draw from the likeliest p of all words")
  add("--rerank", action="store_true",
      help="keep only the likeliest of --num_samples samples")
  add("--min_fraction", type=float,
      help="panoptic: drop objects under this share of the picture")
  add("--full_luma", action="store_true",
      help="colorization: the photo's own luma at full resolution")
  add("--categories", help="panoptic: JSON with COCO's list of categories")
  return parser


def _options(args) -> dict[str, Any]:
  out = {name: getattr(args, name) for name in (
      "temperature", "seed", "num_samples", "top_k", "top_p")}
  if args.min_fraction is not None:
    out["min_fraction"] = args.min_fraction
  if args.full_luma:
    out["full_luma"] = True
  return out


def _run(args) -> list[str]:
  # Before the model is loaded, which may take minutes.
  paths = images.find(args.photos)
  from uvim.inference.api import UViM
  uvim = UViM.from_checkpoint(args.checkpoint, lm=args.lm)
  categories = None
  if uvim.task.num_categories is not None:
    categories = choose_categories(
        args.categories, uvim.dataset, uvim.task.num_categories)
  problems = predict_files(
      uvim, paths, args.out, categories=categories, overwrite=args.overwrite,
      rerank=args.rerank, settings={"checkpoint": args.checkpoint},
      **_options(args))
  print(f"{len(paths) - len(problems)} of {len(paths)} photographs predicted, "
        f"in {args.out}")
  return problems


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0, or 2 after a mistake that the message explains."""
  args = _parser().parse_args(argv)
  try:
    problems = _run(args)
  except ConfigError as error:
    problems = [str(error)]
  for problem in problems:
    print(f"error: {problem}", file=sys.stderr)
  return EXIT_BAD_INPUT if problems else 0


if __name__ == "__main__":
  sys.exit(main())
