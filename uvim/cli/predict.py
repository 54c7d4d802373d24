"""Predicts images and writes the predictions in the format of their task.

  uvim predict --checkpoint W --out DIR image.jpg folder/ …

W is a run's workdir (of UViM or Pix2Seq-D), a pack, a .npz (with --lm) or a
published name such as uvim-panoptic; without it, a small model that comes with
the package. DIR gets
images to look at, the predictions themselves (panoptic: COCO's JSON and PNGs;
depth: 16-bit PNGs in millimetres; colorization: RGB PNGs) and predictions.json
with the codes and settings; see uvim/inference/export.py. Needs no TensorFlow.

A film, or a folder with --video, is predicted frame by frame: see
uvim predict --video --help.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uvim import categories as categories_lib
from uvim import fields, opener
from uvim.categories import Category
from uvim.cli import app, predict_video
from uvim.cli.predict_files import predict_files
from uvim.inference import batching, eval_crop, export, images
from uvim.registry import ConfigError, one_line

# Which of the samples --rerank keeps; the first is the default.
_RERANKINGS = ("likelihood", "agreement")
# An image of more would not fit into the memory of most machines.
_PIXELS = fields.integer(1, 2**31 - 1)

# (checkpoint, lm=stage II or None) → `uvim.inference.predictor.Predictor`.
Loader = Callable[..., Any]


def load_model(checkpoint: str, *, lm: str | None = None) -> Any:
  """Opens a checkpoint for inference."""
  # Imported late: `uvim --help` need not wait for JAX.
  from uvim.inference.opening import open_predictor
  from uvim.learn import devices
  devices.add_spare()
  return open_predictor(checkpoint, lm=lm)


def main(argv: Sequence[str] | None = None, *, program: str = "uvim predict",
         load: Loader = load_model) -> int:
  """The command; returns the exit code.

  Args:
    argv: the arguments; None: those of the process.
    program: what the user typed to start it.
    load: opens a checkpoint.
  """
  if argv is None:
    argv = sys.argv[1:]
  if predict_video.is_for_video(argv):
    return predict_video.main(argv, program=program)
  # Imported late: priors and tasks import JAX.
  from uvim.cli import options
  sampling = options.sampling_options()
  # These are checked by name: a foreign one might pass for one of a task.
  others = options.answer_options()

  def command(args):
    batching.check_batch_size(args.batch_size, "--batch_size")
    # Found before the model is loaded, which may take minutes.
    paths = images.find(args.images)
    _check_out(args.out, paths)
    if args.checkpoint is None:
      from uvim.store import published
      args.checkpoint = published.DEFAULT_PACK
      print(f"note: {published.DEFAULT_NOTE}", file=sys.stderr)
    uvim = load(args.checkpoint, lm=args.lm)
    drawn_with = options.given_options(args, sampling)
    # Otherwise a foreign option of sampling would pass for one of a task.
    uvim.check_sampling(drawn_with)
    read_with = options.given_options(args, others)
    if args.rerank:
      read_with["reduce"] = _same_as_rerank(args.rerank, read_with)
    return _predict(args, uvim, paths, {**drawn_with, **read_with})

  return app.run(make_parser(program), command, _complete_rerank(argv))


def _complete_rerank(argv: Sequence[str]) -> list[str]:
  """The arguments, where --rerank has a value.

  It may stand alone. What follows it is then an image or another option.
  """
  completed = []
  for place, argument in enumerate(argv):
    following = argv[place + 1] if place + 1 < len(argv) else ""
    if argument == "--rerank" and following not in _RERANKINGS:
      argument = f"--rerank={_RERANKINGS[0]}"
    completed.append(argument)
  return completed


def _same_as_rerank(wanted: str, given: Mapping[str, Any]) -> str:
  """What --rerank asks for, unless --reduce asks for something else."""
  other = given.get("reduce", wanted)
  if other != wanted:
    raise ConfigError(f"--rerank {wanted} with --reduce {other}; one of them "
                      "must be left out.")
  return wanted


def make_parser(program: str = "uvim predict") -> argparse.ArgumentParser:
  """The options of the command."""
  from uvim.cli import options
  parser = app.make_command_parser(program, __doc__)
  _add_arguments(parser.add_argument)
  options.add_options(
      parser, "how codes are drawn", options.sampling_options())
  options.add_options(
      parser, "how an answer is read", options.answer_options())
  return parser


def _add_arguments(add: Callable[..., Any]) -> None:
  add("images", nargs="+", metavar="IMAGE", help="files and folders")
  add("--checkpoint",
      help="a workdir, pack, .npz, address or name; default: a small model "
      "that comes with the package")
  add("--lm", help="stage II, where --checkpoint is stage I alone")
  add("--out", required=True,
      help="folder to write to; the same command, again, goes on there")
  add("--overwrite", action="store_true",
      help="start anew and replace files that are there")
  add("--overlay", action="store_true",
      help="the pictures show classes or depths over the image, instead of "
      "beside it")
  add("--side_by_side", action="store_true",
      help="the pictures show the image beside the prediction; the default "
      "without --overlay")
  add("--seed", type=int, default=0, help="of the samples; default: 0")
  add("--num_samples", type=int, default=1, help="per image; default: 1")
  add("--batch_size", type=int,
      help="images times samples that run at once; more take more memory; "
      "default: 8 on a CPU, 32 on other devices; Pix2Seq-D: 1 and 8")
  add("--rerank", choices=_RERANKINGS, metavar="WHAT",
      help="the same as --reduce, for one of the samples: likelihood (what "
      "--rerank alone means) or agreement")
  add("--crop", choices=("none", "eval"), default="none",
      help="which part of an image the model sees and predicts: none cuts "
      "nothing off; eval cuts as the evaluation of its run does; default: none")
  add("--max_pixels", type=int, default=opener.MAX_PIXELS,
      help="a larger image is refused; "
      f"default: {opener.MAX_PIXELS // 10**6} million")
  add("--categories", metavar="FILE",
      help="panoptic: JSON with COCO's list of categories, such as the "
      "annotations of a data set; default: those of the data set that the "
      "model learned from")


def _predict(args, uvim, paths, options) -> int:
  """Predicts and says what it did; returns the exit code."""
  if not _PIXELS.fits(args.max_pixels):
    raise ConfigError(f"--max_pixels = {args.max_pixels}; it must be "
                      f"{_PIXELS.allowed}.")
  check_overlay(args.overlay, uvim.task)
  settings = uvim.check_options(
      seed=args.seed, num_samples=args.num_samples, **options)
  crop = choose_crop(args.crop, uvim.preprocessing)
  categories = choose_categories(args.categories, uvim)
  unnamed = export.unnamed_classes(uvim.task, categories, "--categories")
  if unnamed:
    print(f"warning: {unnamed}", file=sys.stderr)
  problems = predict_files(
      uvim, paths, args.out, categories=categories, overwrite=args.overwrite,
      max_pixels=args.max_pixels, crop=crop, overlay=args.overlay,
      side_by_side=args.side_by_side or not args.overlay,
      batch_size=args.batch_size,
      settings={"checkpoint": args.checkpoint},
      depends_on={"model": uvim.fingerprint, "categories": categories},
      **settings)
  num_done = len(paths) - len(problems)
  # Names of files may hold line breaks, and bytes that no terminal takes.
  out = one_line(args.out)
  print(f"{num_done} of {len(paths)} images predicted, in {out}")
  for problem in problems:
    print(f"error: {one_line(problem)}", file=sys.stderr)
  return app.EXIT_BAD_INPUT if problems else app.EXIT_DONE


def check_overlay(overlay: bool, task: Any) -> None:
  """Raises a ConfigError if nothing of a task can lie over an image."""
  has_colors = task.num_categories is not None or task.scale is not None
  if overlay and not has_colors:
    raise ConfigError("--overlay: this model predicts neither classes nor "
                      "depths, so nothing can lie over the image.")


def choose_crop(wanted: str, preprocessing: str) -> eval_crop.EvalCrop:
  """What is cut off every image; says so if the evaluation cuts otherwise.

  Args:
    wanted: "none" or "eval".
    preprocessing: of the run's evaluation; "" where nobody knows.

  Raises:
    ConfigError: "eval", and nobody knows.
  """
  of_run = eval_crop.of_run(preprocessing)
  if wanted == "eval":
    if not preprocessing:
      raise ConfigError("--crop eval: this checkpoint does not tell how its "
                        "evaluation prepares images; a workdir does.")
    return of_run
  if of_run:
    print(f"note: the evaluation of this model cuts images first ({of_run}), "
          "and here it sees whole images; --crop eval cuts them likewise",
          flush=True)
  return eval_crop.WHOLE


def _check_out(out: str, paths: Sequence[pathlib.Path]) -> None:
  """Raises a ConfigError if --out holds images that are to be predicted."""
  folder = pathlib.Path(out).resolve()
  for path in paths:
    if folder in path.resolve().parents:
      raise ConfigError(f"--out {out}: holds images that are to be predicted "
                        f"({path}). Choose another folder.")


def choose_categories(path: str | None, uvim: Any
                      ) -> Sequence[Category] | None:
  """What the classes of a panoptic model stand for.

  Args:
    path: a JSON file with COCO's list of categories; None: the model's own.
    uvim: the model.

  Returns:
    A category for each class; None: only their numbers are known, or the task
    has no classes.

  Raises:
    ConfigError: no such file, another number of categories, or a model
      without classes.
  """
  if path is None:
    return uvim.categories or None
  if uvim.task.num_categories is None:
    raise ConfigError(f"--categories {path}: this model has no classes.")
  categories = categories_lib.load(pathlib.Path(path), "--categories")
  export.check_categories(uvim.task, categories, f"--categories {path}")
  return categories
