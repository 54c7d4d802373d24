"""What a run says before its first step: which sizes, which data, how many.

A mistake in a config often shows here, hours before it shows in a score.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from trainers.families.base import Family
from trainers.inputs import Inputs
from trainers.report.pace import Pass
from uvim import tree
from uvim.config import TrainConfig
from uvim.learn import devices, optim
from uvim.nn.grid import grid_of

Size = tuple[int, int]
Batch = Mapping[str, np.ndarray]


def title(
    workdir: pathlib.Path,
    step: int,
    total_steps: int,
    is_resumed: bool,
) -> str:
  """Which run this is, and whether it goes on from a step."""
  origin = f"resumed at step {step}" if is_resumed else "new run"
  num_devices = len(devices.of_runs())
  return (f"{workdir}: {origin}, {total_steps} steps, {num_devices} device(s)")


def describe(
    config: TrainConfig,
    inputs: Inputs,
    params: Any,
    sample: Batch,
) -> list[str]:
  """Lines that tell a person what is about to be trained.

  Args:
    config: the run's config.
    inputs: its data and models.
    params: the parameters, or their shapes.
    sample: a training batch.
  """
  rows = {
      "data": _data(config, inputs),
      "image": image_text(inputs.family, sample),
      "features": _features(config, inputs),
      "labels": label_text(inputs.family, sample),
      "code": code_text(inputs.family),
      "parameters": _parameters(config, inputs, params),
      "scores": _scores(inputs),
  }
  lines = []
  for name, text in rows.items():
    # A family that learns from images alone has neither labels nor a code.
    if text:
      lines.append(f"  {name:11}{text}")
  return lines


def passes_of(inputs: Inputs) -> list[Pass]:
  """The passes that the evaluators of a run will make."""
  passes = []
  for item in inputs.evaluations:
    num_images = item.evaluator.split.num_examples
    passes.append(Pass(item.config.name, item.config.log_steps, num_images))
  return passes


def _data(config: TrainConfig, inputs: Inputs) -> str:
  split = inputs.split
  seen = inputs.total_steps * config.batch_size
  epochs = seen / split.num_examples
  return (f"{split.dataset} {split.split}, {split.num_examples:,} images; "
          f"{inputs.total_steps:,} steps of {config.batch_size} are "
          f"{epochs:.3g} epochs")


def image_text(family: Family, sample: Batch) -> str:
  """The size of the image that the model sees, and its tokens."""
  if "image" not in sample and "image_ctx" not in sample:
    return "not read: a cache has what the model needs of it"
  seen = family.seen_image(sample)
  size = tuple(seen.shape[1:3])
  encoder = family.image_encoder
  if encoder is not None:
    return f"{_pixels(size)}, {_grid(size, encoder.patch)}, by {encoder.family}"
  # Stage II's own patches; those of stage I are the labels'.
  patches = family.config.model.get("patches")
  if patches:
    return f"{_pixels(size)}, {_grid(size, tuple(patches['size']))}"
  return _pixels(size)


def _features(config: TrainConfig, inputs: Inputs) -> str:
  """For whom the image encoder runs in spite of a cache; "" without one."""
  if not config.feature_cache:
    return ""
  names = []
  for item in inputs.evaluations:
    if not item.has_features:
      names.append(item.config.name)
  if not names:
    return "read from the cache, in evaluations too"
  return (f"read from the cache, but the encoder runs for {', '.join(names)}: "
          "tools.cache_features with this config adds theirs")


def label_text(family: Family, sample: Batch) -> str:
  """The size of the labels, and what the model makes of them."""
  task = family.task
  if task is None or "labels" not in sample:
    return ""
  size = tuple(sample["labels"].shape[1:3])
  made = family.label_text or _grid(size, task.patch_size)
  return f"{_pixels(size)}, {made}"


def _pixels(size: Size) -> str:
  return f"{size[0]} × {size[1]} pixels"


def _grid(size: Size, patch: Size) -> str:
  rows, columns = grid_of(size, patch)
  height, width = patch
  return (f"{rows} × {columns} = {rows * columns} tokens of {height} × "
          f"{width}")


def code_text(family: Family) -> str:
  spec = family.code_spec
  if spec is None:
    return ""
  if not spec.is_discrete:
    return f"{spec.length} vectors of {spec.vector_dim} numbers"
  num_words = spec.length * spec.words_per_place
  text = f"{num_words} words, each one of {spec.num_words:,}"
  if spec.words_per_place > 1:
    text += f", {spec.words_per_place} at each of {spec.length} places"
  return text


def _parameters(config: TrainConfig, inputs: Inputs, params: Any) -> str:
  """How many are trained, and how many stay as they were read."""
  trained = 0
  frozen = _count(inputs.opened.frozen)
  is_frozen = _frozen_flags(config, inputs.family, params)
  for leaf, stays in zip(jax.tree.leaves(params), is_frozen, strict=True):
    if stays:
      frozen += leaf.size
    else:
      trained += leaf.size
  return f"{trained:,} trained, {frozen:,} frozen"


def _frozen_flags(config: TrainConfig, family: Family, params: Any
                  ) -> list[bool]:
  """Whether each parameter is frozen, by the family or by the schedule."""
  rules = [(pattern, None) for pattern in family.frozen_patterns()]
  rules += optim.schedule_rules(config.schedule)
  patterns = [pattern for pattern, _ in rules]
  names = tree.leaf_names(params)
  places = tree.first_match(names, patterns, what="config.schedule")
  return [rules[place][1] is None for place in places]


def _count(arrays: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(arrays))


def _scores(inputs: Inputs) -> str:
  """Which evaluators there are and how often each reports."""
  texts = []
  for item in passes_of(inputs):
    when = f"every {item.period:,} steps" if item.period else "at the end"
    texts.append(f"{item.name} {when} on {item.num_images:,} images")
  return "; ".join(texts)
