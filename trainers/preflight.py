"""What a sample of examples tells before anything is compiled.

Labels in the wrong unit, of other classes or without any content make a run
that trains to its end and has learned nothing. Evaluators would find a truth
that they cannot score only after the first steps. Both are refused here if
they concern the sample as a whole, and a warning says it if they concern a
part of it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trainers.evaluation import Evaluation
from trainers.families.base import Family
from trainers.inputs import Inputs
from uvim.config import TrainConfig
from uvim.registry import ConfigError
from uvim.tasks.base import AbstractTask

# Examples of each split that are looked at.
NUM_SAMPLED = 32
# What tasks call a map of semantics and instances.
_SEGMENTS = "panoptic"
_CLASSES = "semantics"

log = logging.getLogger(__name__)


def check_inputs(config: TrainConfig, inputs: Inputs
                 ) -> dict[str, np.ndarray]:
  """Looks at a few examples of every split of a run.

  Returns:
    Those of the training split, as a batch.

  Raises:
    ConfigError: the model cannot take the batches, or labels or truth are of
      no use; names split, examples, what was found and what is allowed.
  """
  where = _name_of(inputs.split)
  check_classes(inputs.family.task, inputs.split)
  # All processes look at the same examples, so all refuse them or none does.
  batches = inputs.open_batches(
      batch_size=_sample_size(inputs.split), process_index=0, process_count=1)
  batch = next(batches)
  inputs.family.check_batch(batch)
  check_labels(inputs.family.task, batch, where)
  check_things(inputs.family.task, batch, inputs.split.categories, where)
  check_evaluations(inputs.family, inputs.evaluations, config)
  return batch


def check_evaluations(
    family: Family,
    evaluations: Sequence[Evaluation],
    config: TrainConfig,
) -> None:
  """Looks at the truth that evaluators score with, and at their batches.

  Raises:
    ConfigError: as `check_inputs`.
  """
  # Several evaluators often read the same examples in the same way.
  seen = set()
  for item in evaluations:
    split = item.evaluator.split
    check_classes(family.task, split)
    key = (split.folder, split.split, item.config.pp)
    if key not in seen:
      seen.add(key)
      batch = _sample_of(split, item.config.pp, config)
      check_labels(family.task, batch, _name_of(split))
    check_truth(item, skips=config.on_bad_example == "skip")


def check_classes(task: AbstractTask | None, split: Any) -> None:
  """Raises a ConfigError if model and data set have other classes."""
  # A family that learns from images alone has no task.
  if task is None:
    return
  num_classes = task.num_categories
  num_categories = len(split.categories)
  # Not every task has classes, and not every data set names them.
  if num_classes is None or not num_categories:
    return
  if num_classes != num_categories:
    field = task.field_of(_CLASSES)
    # The oracle of a UViM model sees the classes, too.
    inputs = field.replace("outputs", "inputs")
    too = "" if inputs == field else f", and {inputs} too"
    raise ConfigError(
        f"{_name_of(split)} has {num_categories} categories, but {field} is "
        f"for {num_classes} and void; it must have {num_categories} + 1{too}.")


def check_labels(
    task: AbstractTask | None,
    batch: Mapping[str, np.ndarray],
    where: str,
) -> None:
  """Refuses labels of no use, or warns of them; see `AbstractTask.label_flaws`.

  Args:
    task: says what may be wrong; None: no label is looked at.
    batch: 'labels' [B,H,W,C] and 'image/id' int [B]; without labels there is
      nothing to check.
    where: data set and split, for messages.
  """
  if task is None or "labels" not in batch:
    return
  for flaw in task.label_flaws(batch["labels"]):
    if not np.any(flaw.is_bad_B):
      continue
    message = f"{where}: {flaw.describe(batch['image/id'])}"
    if flaw.is_refused:
      raise ConfigError(message)
    _warn(message)


def check_things(
    task: AbstractTask | None,
    batch: Mapping[str, np.ndarray],
    categories: Sequence[Any],
    where: str,
) -> None:
  """Warns if most things are smaller than a patch.

  Args:
    task: has the patches; None, or one without segments: nothing to check.
    batch: 'labels' [B,H,W,C], if there are any.
    categories: of the data set.
    where: data set and split, for messages.
  """
  has_segments = task is not None and _SEGMENTS in task.output_keys
  if not (has_segments and categories and "labels" in batch):
    return
  areas = []
  for segments_HW2 in np.asarray(task.truth(batch)[_SEGMENTS]):
    areas += _areas_of_things(segments_HW2, categories)
  height, width = task.patch_size
  num_small = sum(area < height * width for area in areas)
  if num_small > len(areas) / 2:
    _warn(f"{where}: {num_small} of {len(areas)} things in "
          f"{len(batch['labels'])} examples are smaller than a patch of "
          f"{height} × {width} pixels, so few will be found. Take smaller "
          "patches (model.patch_size) or larger labels (model.input_size).")


def _areas_of_things(segments_HW2: np.ndarray, categories: Sequence[Any]
                     ) -> list[int]:
  """The pixels of each thing of an image with its semantics and instances."""
  semantics_HW, instances_HW = np.moveaxis(segments_HW2, -1, 0)
  # A segment is a pair of class and instance: one number for both.
  stride = int(instances_HW.max()) + 1
  pairs, areas = np.unique(
      semantics_HW * stride + instances_HW, return_counts=True)
  found = []
  for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True):
    semantics = pair // stride
    is_class = 0 < semantics <= len(categories)
    if is_class and categories[semantics - 1].isthing:
      found.append(area)
  return found


def check_truth(item: Evaluation, *, skips: bool = False) -> None:
  """Refuses a split of which an evaluator can score no example of a sample.

  Args:
    item: the evaluator.
    skips: whether examples that cannot be read are left out.
  """
  problems = {}
  num_read = 0
  for truth in _truths(item, skips):
    num_read += 1
    problem = item.evaluator.truth_problem(truth)
    if problem:
      problems[int(truth["image/id"])] = problem
  if not problems:
    return
  image_id, problem = next(iter(problems.items()))
  message = (f"{_name_of(item.evaluator.split)}: {item.config.name} cannot "
             f"score {len(problems)} of {num_read} examples; image/id "
             f"{image_id}: {problem}")
  if len(problems) == num_read:
    raise ConfigError(message)
  _warn(message)


def _truths(item: Evaluation, skips: bool) -> Iterator[Mapping[str, Any]]:
  """The truth of examples that are spread over the split."""
  split = item.evaluator.split
  places = np.linspace(0, split.num_examples - 1, _sample_size(split))
  for place in places.astype(int).tolist():
    try:
      truth = item.evaluator.read_truth(place)
    except ConfigError:
      if not skips:
        raise
      continue
    # None: this evaluator needs no truth.
    if truth is not None:
      yield truth


def _sample_of(split: Any, pp: str, config: TrainConfig
               ) -> Mapping[str, np.ndarray]:
  """Some examples, which lie anywhere in the split, preprocessed by `pp`."""
  # In the order of training: the first examples of a split are often alike.
  batches = split.train_batches(
      split.make_preprocess(pp, config.pp_modules),
      batch_size=_sample_size(split),
      seed=0,
      on_bad_example=config.on_bad_example)
  return next(batches)


def _sample_size(split: Any) -> int:
  if not split.num_examples:
    raise ConfigError(f"{_name_of(split)} has no examples.")
  return min(NUM_SAMPLED, split.num_examples)


def _name_of(split: Any) -> str:
  return f"{split.dataset} {split.split}"


def _warn(message: str) -> None:
  if jax.process_index() == 0:
    log.warning("%s", message)
