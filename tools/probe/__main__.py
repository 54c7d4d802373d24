"""Scores a simple rival: a small head on features of a frozen encoder.

  python -m tools.probe --config configs/vqvae_….py --encoder PATH --out DIR
      [--family dinov2] [--variant S/14] [--input_size 336,448]
      [--config.field=value …]

Know this score before you train UViM: a head takes minutes, and may be enough.
The config is one of stage I and gives data, labels, task and evaluator. PATH is
a pretrained image encoder, such as a `.safetensors`. The command computes its
features of the training split once. From these a head of two layers learns the
classes of the cells of a token, which are the pixels of the head's labels. In
panoptic segmentation a class of stuff is one segment, and each connected region
of a class of things is one. DIR gets results.json and predictions.png.

B images · H W pixels of the head's labels · T tokens of the encoder's grid
K classes · P pixels of a token (cells)
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

_BATCH_SIZE = 8
_BLOCK = "config.model.image_encoder"


class Clock:
  """Measures the parts of the work, in their order.

  Attributes:
    seconds: name of a part → how long it took.
  """

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self._last = time.perf_counter()

  def note(self, part: str) -> None:
    """Notes how long the part took that ends now."""
    now = time.perf_counter()
    self.seconds[part] = now - self._last
    self._last = now


def probe(
    config: Any,
    encoder: Any,
    path: str,
    *,
    cells: int = 4,
    min_fraction: float = 0.001,
    mirror: bool = False,
    store: Any = None,
    **settings: Any,
) -> tuple[dict[str, Any], Any]:
  """Trains and scores the head.

  Args:
    config: TrainConfig of stage I with `pp_eval`.
    encoder: the ImageEncoder.
    path: of its checkpoint.
    cells: the head predicts cells × cells classes for a token.
    min_fraction: segments under this share of an image are dropped.
    mirror: also trains on the mirror images.
    store: where the checkpoint is read from; None: disk and network.
    **settings: of the head; see `head.Settings`.

  Returns:
    (what results.json holds, a PIL image of the first predictions).

  Raises:
    ConfigError: a config that does not suit, and whatever data and checkpoint
      raise.
  """
  # Imported late: a typo on the command line need not wait for JAX.
  from pp import splits
  from tools.probe import examples, head
  from uvim.store.start_from import Store
  clock = Clock()
  block = evaluator_block(config)
  task, rival_of_task = make_task_of_head(config, encoder, cells)
  pp = examples.resized(config.pp_eval, encoder.input_size, task.input_size)
  train_split = splits.open_split(
      config.dataset, config.train_split, config.data_dir)
  split = splits.open_split(block.dataset, block.split, block.data_dir)
  rival = rival_of_task(task, tuple(split.categories), min_fraction)
  _check_categories(rival)
  num_versions = 2 if mirror else 1
  num_images = train_split.num_examples * num_versions + split.num_examples
  num_bytes = examples.check_memory(num_images, encoder)
  print(f"features of {num_images} images: {num_bytes / 1e6:,.0f} MB of memory")
  params = examples.load_encoder(encoder, path, store or Store())
  see = examples.make_see(encoder, params)
  clock.note("open")

  train = examples.read(config, train_split, pp, rival, see, mirror=mirror)
  clock.note("features of train")
  evaluated = examples.read(config, split, pp, rival, see)
  clock.note("features of validation")
  trained = head.train(
      head.Settings(rival.num_classes, cells * cells, **settings), train)
  clock.note("head")
  metrics, first = _score(rival, trained, evaluated, split, block)
  clock.note("predict and score")
  panel = _draw(task, evaluated.first, first)
  return {
      "metrics": metrics,
      "seconds": clock.seconds,
      "train_images": train_split.num_examples,
      "images": split.num_examples,
      "dataset": block.dataset,
      "split": block.split,
      "evaluator": block.type,
      "encoder": {"path": str(path), **dataclasses.asdict(encoder)},
      "head": dataclasses.asdict(trained.settings),
      "cells": cells,
      "mirror": mirror,
      "min_fraction": min_fraction,
  }, panel


def evaluator_block(config: Any) -> Any:
  """The first evaluator of a config that compares with the truth.

  Raises:
    ConfigError: there is none, or the config is not one of stage I with
      `pp_eval`.
  """
  if config.task is None:
    raise ConfigError(f"--config is of kind {config.kind!r}; the probe takes "
                      "one of stage I (kind 'vqvae').")
  if not config.pp_eval:
    raise ConfigError("config.pp_eval is missing; the probe reads images and "
                      "labels with it.")
  for block in config.evals:
    if block.type != "mean":
      return block
  raise ConfigError("config.evals has no evaluator that compares with the "
                    "truth, such as 'coco_panoptic'.")


def make_task_of_head(
    config: Any, encoder: Any, cells: int) -> tuple[Any, type]:
  """(the task at the size of the head's labels, the class of its rival).

  Raises:
    ConfigError: a task that the probe does not know; see `rivals.rival_class`.
  """
  from tools.probe import rivals
  from uvim.tasks import make_task, task_class
  rival_of_task = rivals.rival_class(task_class(config.task))
  rows, columns = encoder.grid_size
  spec = {}
  for key, (num_classes, _) in config.model["outputs"].items():
    spec[key] = (num_classes, cells * cells)
  sizes = {
      "inputs": spec,
      "outputs": spec,
      "input_size": (rows * cells, columns * cells),
      "patch_size": (cells, cells),
  }
  task = make_task(config.task, sizes, **config.task_options)
  return task, rival_of_task


def _check_categories(rival: Any) -> None:
  """Raises a ConfigError if the data set does not name all classes."""
  num_categories = rival.task.num_categories
  if num_categories is not None and num_categories != len(rival.categories):
    raise ConfigError(
        f"config.model.outputs[{rival.key!r}] has {num_categories} classes "
        f"beside void; the data set has {len(rival.categories)} categories.")


def _score(rival, head, examples, split, block):
  """(metrics by name, the outputs of the first batch)."""
  import evaluators
  from evaluators import base
  evaluator = evaluators.make_evaluator(
      block.type, split, block.options, f"config.{block.name}.options")
  confusion_KK = np.zeros((rival.num_classes, rival.num_classes), np.int64)
  first = None

  def predictions() -> Iterator[Mapping[str, Any] | None]:
    nonlocal first
    for outputs, rows in _predict(rival, head, examples, confusion_KK):
      if first is None:
        first = outputs
      for place, row in enumerate(rows):
        # The last rows are padding.
        if row >= split.num_examples:
          return
        if not examples.is_good_M[row]:
          yield None
          continue
        one = {name: output[place] for name, output in outputs.items()}
        yield {**one, "image/id": int(examples.image_id_M[row])}

  metrics = base.score(evaluator, predictions())
  return rival.accuracy(confusion_KK) | metrics, first


def _predict(rival, head, examples, confusion_KK):
  """Yields (outputs, rows of the examples), batch by batch.

  Adds to `confusion_KK` how often a pixel of each class (rows) was predicted as
  each class (columns).
  """
  num_rows = len(examples.features_MTD)
  for start in range(0, num_rows, _BATCH_SIZE):
    rows = range(start, min(start + _BATCH_SIZE, num_rows))
    logits_BTKP = head(examples.features_MTD[rows.start:rows.stop])
    ids_BTP = examples.ids_MTP[rows.start:rows.stop]
    predicted_BTP = rival.classes(logits_BTKP)
    is_labelled_BTP = ids_BTP >= 0
    np.add.at(
        confusion_KK,
        (ids_BTP[is_labelled_BTP], predicted_BTP[is_labelled_BTP]), 1)
    yield rival.outputs(logits_BTKP), rows


def _draw(task, batch, outputs):
  """Rows of image, truth and prediction as a PIL image."""
  from PIL import Image

  from trainers.families.base import render_image
  from uvim.inference import sheet
  height, width = task.input_size
  rows = []
  images = render_image(batch["image"])
  truths = task.render(task.truth(batch))
  predictions = task.render(outputs)
  for number, image in enumerate(images):
    small = Image.fromarray(image).resize((width, height))
    rows.append((np.asarray(small), truths[number], predictions[number]))
  return sheet.draw_sheet(
      rows, titles=[("image", "truth", "probe")], gap=4, margin=8)


def write(out: pathlib.Path, results: Mapping[str, Any], panel: Any) -> None:
  """Writes results.json and predictions.png."""
  files.write_json(out / "results.json", results, indent=1)
  files.replace_file(
      out / "predictions.png", lambda file: panel.save(file, "PNG"))


def report(results: Mapping[str, Any]) -> str:
  """The metrics and the seconds as lines of text."""
  lines = []
  for name, value in results["metrics"].items():
    lines.append(f"{name:<24} {value:10.3f}")
  total = sum(results["seconds"].values())
  for name, value in {**results["seconds"], "all": total}.items():
    lines.append(f"{name:<24} {value:8.1f} s")
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.probe", __doc__)
  add = parser.add_argument
  add("--config", required=True, help="configs/vqvae_….py[:argument]")
  add("--encoder", help="the checkpoint (default: that of the config's "
      "model_init.image_encoder)")
  add("--family", help="of the encoder (default: as the config's "
      "image_encoder, or dinov2)")
  add("--variant", help="its size and patch (default likewise, or S/14)")
  add("--input_size", type=_two_integers,
      help="height,width of the image it sees (default likewise)")
  add("--cells", type=int, default=4,
      help="classes along each side of a token (default 4)")
  add("--hidden", type=int, default=512,
      help="width of the head (default 512)")
  add("--steps", type=int, default=1500, help="of the head (default 1500)")
  add("--seed", type=int, default=0, help="of the head (default 0)")
  add("--min_fraction", type=float, default=0.001,
      help="smallest share of the image that a segment has (default 0.001)")
  add("--mirror", action="store_true",
      help="also train on the mirror images: twice the time and memory")
  add("--out", required=True, help="folder of the results")
  return app.run(parser, command, argv, takes_overrides=True)


def _two_integers(text: str) -> tuple[int, int]:
  try:
    height, width = map(int, text.split(","))
  except ValueError as error:
    raise argparse.ArgumentTypeError(
        f"{text!r}; allowed: height,width, such as 336,448") from error
  return height, width


def command(args: argparse.Namespace) -> None:
  """What the command does."""
  _check_options(args)
  from trainers import config_file
  from uvim.config import resolve
  config_file.quiet_absl()
  fields = config_file.load_config(args.config, args.overrides)
  config = resolve(fields)
  encoder = _encoder_of(config, args)
  results, panel = probe(
      config, encoder, _path_of(config, args), cells=args.cells,
      hidden=args.hidden, steps=args.steps, seed=args.seed,
      min_fraction=args.min_fraction, mirror=args.mirror)
  write(pathlib.Path(args.out), results, panel)
  print(report(results))
  print(f"wrote {args.out}")


def _check_options(args: argparse.Namespace) -> None:
  for name, most in (("cells", 64), ("hidden", 2**16), ("steps", 10**6)):
    value = getattr(args, name)
    if not 1 <= value <= most:
      raise ConfigError(f"--{name} = {value}; allowed: 1 to {most}.")
  if not 0 <= args.min_fraction < 1:
    raise ConfigError(f"--min_fraction = {args.min_fraction}; allowed: 0 or "
                      "more and less than 1.")


def _encoder_of(config: Any, args: argparse.Namespace) -> Any:
  """The ImageEncoder of the config's block and of the options."""
  from uvim.encoders import image_encoder
  block = dict(config.model.get(image_encoder.NAME) or {})
  for name in ("family", "variant", "input_size"):
    value = getattr(args, name)
    if value is not None:
      block[name] = value
  if "input_size" not in block:
    raise ConfigError("--input_size is missing: height and width of the image "
                      "that the encoder sees, such as 336,448.")
  # Features are those of a frozen encoder, whatever the config trains.
  block["frozen"] = True
  return image_encoder.make(block, _BLOCK)


def _path_of(config: Any, args: argparse.Namespace) -> str:
  """Where the checkpoint is: the option, or the config's `model_init`."""
  if args.encoder:
    return args.encoder
  start = config.model_init
  if isinstance(start, Mapping) and start.get("image_encoder"):
    return start["image_encoder"]
  raise ConfigError("--encoder is missing, and config.model_init names no "
                    "image_encoder.")


if __name__ == "__main__":
  sys.exit(main())
