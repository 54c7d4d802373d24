"""Predicts images and writes the predictions in the format of their task.

  uvim predict --checkpoint W --out DIR image.jpg folder/ …

W is a run's workdir, a .npz (with --lm) or a published name such as
uvim-panoptic. DIR gets images to look at, the predictions themselves
(panoptic: COCO's JSON and PNGs; depth: 16-bit PNGs in millimetres;
colorization: RGB PNGs) and predictions.json with the codes and settings; see
uvim/inference/export.py. Needs no TensorFlow.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from uvim import categories as categories_lib
from uvim import progress
from uvim.categories import Category
from uvim.cli import app
from uvim.inference import export, images
from uvim.inference.naming import file_names
from uvim.registry import ConfigError

# (checkpoint, lm=stage II or None) → `uvim.inference.api.UViM`.
Loader = Callable[..., Any]


def load_model(checkpoint: str, *, lm: str | None = None) -> Any:
  """Opens a checkpoint for inference."""
  # Imported late: `uvim --help` need not wait for JAX.
  from uvim.inference.api import UViM
  return UViM.from_checkpoint(checkpoint, lm=lm)


def main(argv: Sequence[str] | None = None, *, program: str = "uvim predict",
         load: Loader = load_model) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    program: what the user typed to start it.
    load: opens a checkpoint.
  """
  # Imported late: priors and tasks import JAX.
  from uvim.cli import options
  sampling = options.sampling_options()
  outputs = options.output_options()
  parser = _make_parser(program)
  options.add_options(parser, "how codes are drawn", sampling)
  options.add_options(parser, "what becomes of the outputs", outputs)

  def command(args):
    # Found before the model is loaded, which may take minutes.
    paths = images.find(args.images)
    uvim = load(args.checkpoint, lm=args.lm)
    drawn_with = options.given_options(args, sampling)
    if uvim.prior is not None:
      # Otherwise a foreign option of sampling would pass for one of a task.
      uvim.prior.check_options(drawn_with)
    changed_with = options.given_options(args, outputs)
    return _predict(args, uvim, paths, {**drawn_with, **changed_with})

  return app.run(parser, command, argv)


def _make_parser(program: str) -> argparse.ArgumentParser:
  parser = app.make_command_parser(program, __doc__)
  add = parser.add_argument
  add("images", nargs="+", metavar="IMAGE", help="files and folders")
  add("--checkpoint", required=True, help="a workdir, .npz, address or name")
  add("--lm", help="stage II, where --checkpoint is stage I alone")
  add("--out", required=True, help="folder to write to")
  add("--overwrite", action="store_true", help="replace files that are there")
  add("--seed", type=int, default=0, help="of the samples; default: 0")
  add("--num_samples", type=int, default=1, help="per image; default: 1")
  add("--rerank", action="store_true",
      help="keep only the likeliest of --num_samples samples")
  add("--categories", metavar="FILE",
      help="panoptic: JSON with COCO's list of categories; default: those of "
      "the data set that the model learned from")
  return parser


def _predict(args, uvim, paths, options) -> int:
  """Predicts and says what it did; returns the exit code."""
  categories = choose_categories(args.categories, uvim)
  problems = predict_files(
      uvim, paths, args.out, categories=categories, overwrite=args.overwrite,
      rerank=args.rerank, settings={"checkpoint": args.checkpoint},
      seed=args.seed, num_samples=args.num_samples, **options)
  num_done = len(paths) - len(problems)
  print(f"{num_done} of {len(paths)} images predicted, in {args.out}")
  for problem in problems:
    print(f"error: {problem}", file=sys.stderr)
  return app.EXIT_BAD_INPUT if problems else app.EXIT_DONE


# ── Names of classes ───────────────────────────────────────────


def choose_categories(path: str | None, uvim: Any
                      ) -> Sequence[Category] | None:
  """What the classes of a panoptic model stand for.

  Args:
    path: a JSON file with COCO's list of categories, or None.
    uvim: the model. Without a file its own categories are taken; for weights
      that do not tell their data set, such as the published ones, COCO's.

  Returns:
    A category for each class; None: only their numbers are known, or the task
    has no classes.

  Raises:
    ConfigError: no such file, or another number of categories.
  """
  num_classes = uvim.task.num_categories
  if num_classes is None:
    return None
  if path:
    categories = _load_categories(path)
    if len(categories) != num_classes:
      raise ConfigError(
          f"--categories {path}: lists {len(categories)} categories, the model "
          f"has {num_classes} classes.")
    return categories
  # The model's own categories come first, COCO's only for bare weights.
  categories = [Category(*row) for row in uvim.categories]
  if not categories and not uvim.dataset:
    categories = categories_lib.coco_panoptic()
  # These names belong to other classes. Without any, files have the numbers.
  if len(categories) != num_classes:
    return None
  return categories


def _load_categories(path: str) -> Sequence[Category]:
  try:
    return categories_lib.load(pathlib.Path(path))
  # ConfigError is a ValueError: without this line it would be wrapped again.
  except ConfigError:
    raise
  except (OSError, ValueError) as error:
    raise ConfigError(
        f"--categories {path}: cannot be read: {error}.") from error


# ── The pass over the images ────────────────────────────────────────────────


def predict_files(uvim: Any, paths: Sequence[pathlib.Path], out: str, *,
                  categories: Sequence[Category] | None = None,
                  overwrite: bool = False, rerank: bool = False,
                  settings: Mapping[str, Any], num_samples: int = 1,
                  **options: Any) -> list[str]:
  """Predicts each image and writes it before the next one is read.

  Args:
    uvim: `uvim.inference.api.UViM`.
    paths: images.
    out: folder.
    categories, overwrite: see `export.Writer`.
    rerank: keeps the likeliest of each image's samples only.
    settings: more entries for the settings in predictions.json.
    num_samples, **options: of `UViM.predict`.

  Returns:
    A line for each image that could not be read; the others are done.

  Raises:
    ConfigError: an option out of its range; a file that cannot be written.
  """
  num_kept = 1 if rerank else num_samples
  writer = export.Writer(out, uvim.task, num_samples=num_kept,
                         categories=categories, overwrite=overwrite)
  names = file_names(paths)
  # Before the first prediction, so that a file in the way costs no time.
  writer.check(names)
  problems = []
  made_with = {}
  for name, path, image in _read_each(names, paths, problems):
    prediction = uvim.predict(image, num_samples=num_samples, **options)
    if rerank:
      prediction = prediction.best()
    writer.add(name, prediction, str(path))
    made_with = prediction.settings
  # Not if no image could be read.
  if made_with:
    writer.close({**settings, **made_with})
  return problems


def _read_each(names: Sequence[str], paths: Sequence[pathlib.Path],
               problems: list[str]) -> Iterator[tuple[str, pathlib.Path, Any]]:
  """(name, path, image) of what can be read; the rest goes to `problems`."""
  named_paths = zip(names, paths, strict=True)
  for name, path in progress.bar(named_paths, total=len(paths),
                                 label="Predicting", unit="images"):
    try:
      image = images.read(path)
    # One broken file does not end the run; the caller lists it at the end.
    except ConfigError as error:
      problems.append(str(error))
      continue
    yield name, path, image
