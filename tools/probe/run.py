"""Trains a head on the features of a frozen encoder, and scores it.

P pixels of a token (cells)
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pp import splits
from tools.probe import examples, head, rivals, scoring
from trainers.families.drawing import render_image
from trainers.report import panel
from uvim.encoders.image_encoder import ImageEncoder
from uvim.inference import sheet
from uvim.registry import ConfigError
from uvim.store.start_from import Store
from uvim.tasks import make_task, task_class
from uvim.tasks.base import AbstractTask

# Empty pixels around the drawn examples.
_MARGIN = 4


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


class Plan(NamedTuple):
  """What a head learns, from which examples, and what scores it.

  Attributes:
    rival: what the head predicts and what becomes of it.
    pp: preprocessing at the sizes of encoder and head.
    train_split: what it learns from.
    split: what it is scored on.
    block: the config's block of the evaluator.
  """
  rival: rivals.Rival
  pp: str
  train_split: Any
  split: Any
  block: Any


def probe(
    config: Any,
    encoder: ImageEncoder,
    path: str,
    *,
    cells: int = 4,
    min_fraction: float = 0.001,
    mirror: bool = False,
    store: Store | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], Any]:
  """Trains and scores the head.

  Args:
    config: TrainConfig of stage I with `pp_eval`.
    encoder: sees the images.
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
  clock = Clock()
  plan = make_plan(config, encoder, cells, min_fraction)
  _announce_memory(plan, encoder, mirror)
  params = examples.load_encoder(encoder, path, store or Store())
  see = examples.make_see(encoder, params)
  clock.note("open")
  train = examples.read(
      config, plan.train_split, plan.pp, plan.rival, see, mirror=mirror)
  clock.note("features of train")
  evaluated = examples.read(config, plan.split, plan.pp, plan.rival, see)
  clock.note("features of validation")
  trained = head.train(
      head.Settings(plan.rival.num_classes, cells * cells, **settings), train)
  clock.note("head")
  metrics = scoring.score(
      plan.rival, trained, evaluated, plan.split, plan.block)
  clock.note("predict and score")
  results = {
      "metrics": metrics,
      "seconds": clock.seconds,
      **_facts(plan),
      "encoder": {"path": str(path), **dataclasses.asdict(encoder)},
      "head": dataclasses.asdict(trained.settings),
      "cells": cells,
      "mirror": mirror,
      "min_fraction": min_fraction,
  }
  return results, _draw(plan, trained, evaluated)


def make_plan(
    config: Any,
    encoder: ImageEncoder,
    cells: int,
    min_fraction: float,
) -> Plan:
  """Opens the splits of a config, and finds what its task can learn.

  Args are those of `probe`.

  Raises:
    ConfigError: a task, an evaluator or classes that do not suit.
  """
  block = evaluator_block(config)
  task, make_rival = make_task_of_head(config, encoder, cells)
  pp = examples.resized(config.pp_eval, encoder.input_size, task.input_size)
  train_split = splits.open_split(
      config.dataset, config.train_split, config.data_dir)
  split = splits.open_split(block.dataset, block.split, block.data_dir)
  rival = make_rival(task, tuple(split.categories), min_fraction)
  _check_categories(rival)
  return Plan(rival, pp, train_split, split, block)


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
    config: Any,
    encoder: ImageEncoder,
    cells: int,
) -> tuple[AbstractTask, Callable[..., rivals.Rival]]:
  """(the task at the size of the head's labels, the class of its rival).

  Raises:
    ConfigError: a task that the probe does not know; see `rivals.rival_class`.
  """
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


def _check_categories(rival: rivals.Rival) -> None:
  """Raises a ConfigError if the data set does not name all classes."""
  num_categories = rival.task.num_categories
  if num_categories is not None and num_categories != len(rival.categories):
    raise ConfigError(
        f"config.model.outputs[{rival.key!r}] has {num_categories} classes "
        f"beside void; the data set has {len(rival.categories)} categories.")


def _announce_memory(plan: Plan, encoder: ImageEncoder, mirror: bool) -> None:
  """Prints how much memory the features need.

  Raises:
    ConfigError: the machine has less.
  """
  num_versions = 2 if mirror else 1
  num_train = plan.train_split.num_examples * num_versions
  num_images = num_train + plan.split.num_examples
  num_bytes = examples.check_memory(num_images, encoder)
  print(f"features of {num_images} images: {num_bytes / 1e6:,.0f} MB of memory")


def _facts(plan: Plan) -> dict[str, Any]:
  """What the head learned from, and what it was scored on."""
  return {
      "train_images": plan.train_split.num_examples,
      "images": plan.split.num_examples,
      "dataset": plan.block.dataset,
      "split": plan.block.split,
      "evaluator": plan.block.type,
  }


def _draw(plan: Plan, trained: head.Head, evaluated: examples.Examples) -> Any:
  """Rows of image, truth and prediction as a PIL image, with a legend."""
  task = plan.rival.task
  batch = evaluated.first
  outputs = scoring.outputs_of(
      plan.rival, trained, evaluated, range(len(batch["image"])))
  images = render_image(batch["image"])
  truths = task.render(task.truth(batch))
  predictions = task.render(outputs)
  rows = []
  for image, truth, prediction in zip(
      images, truths, predictions, strict=True):
    rows.append((_resize(image, task.input_size), truth, prediction))
  drawn = sheet.draw_sheet(
      rows, titles=[("image", "truth", "probe")], gap=4, margin=_MARGIN)
  return with_legend(drawn, plan, batch)


def with_legend(drawn: Any, plan: Plan, batch: examples.Batch) -> Any:
  """A PIL image, and below it what its colors mean.

  Args:
    drawn: the examples of `batch`, with the margin.
    plan: has the task and the classes.
    batch: of many classes, only those of its labels are named.
  """
  legend = panel.make_legend(
      plan.rival.task, batch, plan.split.categories,
      rows=len(batch["labels"]))
  return panel.add_legend(drawn, legend, _MARGIN)


def _resize(image: np.ndarray, size: tuple[int, int]) -> Any:
  """A PIL image of this height and width."""
  from PIL import Image
  height, width = size
  return Image.fromarray(image).resize((width, height))
