"""What a config pair will say: the choices that follow from the facts.

The numbers of the recipe stand in `recipe`; here is what a data set and a
machine change.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tools.make_config import cost, recipe, survey
from tools.make_config.cost import Machine
from tools.make_config.survey import Facts, Segments
from uvim.registry import ConfigError

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """The length of a stage.

  Attributes:
    batch_size: images of a step.
    total_steps: of the run.
    eval_steps: period of the evaluators.
    checkpoint_steps: period of the checkpoints.
    log_steps: period of the metrics of training.
    warmup_steps: until the learning rate is reached.
    epochs: how often each image is seen.
    minutes: expected.
    is_capped: whether `epochs` ended it, and not the time.
  """
  batch_size: int
  total_steps: int
  eval_steps: int
  checkpoint_steps: int
  log_steps: int
  warmup_steps: int
  epochs: float
  minutes: float
  is_capped: bool


@dataclasses.dataclass(frozen=True)
class Plan:
  """The choices for both stages.

  Attributes:
    facts: what they follow from.
    machine: what the times are for.
    minutes: that both stages were to take.
    task: its name in a config.
    classes: quantity → classes, bins or channels, as `common.set_labels` takes.
    task_options: fields of the task.
    patch: side of a patch in pixels.
    grid: rows and columns of patches.
    stage_i: its schedule.
    stage_ii: likewise.
  """
  facts: Facts
  machine: Machine
  minutes: float
  task: str
  classes: Mapping[str, int]
  task_options: Mapping[str, Any]
  patch: int
  grid: Size
  stage_i: Schedule
  stage_ii: Schedule

  @property
  def label_size(self) -> Size:
    rows, columns = self.grid
    return (rows * self.patch, columns * self.patch)

  @property
  def encoder_size(self) -> Size:
    """Height and width of the image that the optional encoder sees."""
    rows, columns = self.grid
    side = recipe.ENCODER_PATCH * recipe.ENCODER_PATCHES_PER_SIDE
    return (rows * side, columns * side)

  @property
  def small_things(self) -> float:
    """Of all things, the share that covers less than a patch."""
    segments = self.facts.segments
    if segments is None or not len(segments.thing_shares_S):
      return 0.0
    patch_share = 1 / math.prod(self.grid)
    return float(np.mean(segments.thing_shares_S < patch_share))


def make_plan(facts: Facts, machine: Machine, minutes: float) -> Plan:
  """Chooses task, sizes and lengths.

  Args:
    facts: of the data set.
    machine: that will train.
    minutes: for both stages.

  Raises:
    ConfigError: minutes that are no time.
  """
  if not 0 < minutes < math.inf:
    raise ConfigError(f"--minutes: {minutes:g}; allowed: above 0.")
  task = choose_task(facts)
  classes = choose_classes(task, facts)
  patch, grid = choose_grid(facts.sizes_M2)
  num_patches = math.prod(grid)
  pixels = patch * patch
  batch_i = _fit_to_devices(recipe.BATCH_I, machine)
  flops_i = cost.stage_i_flops(
      recipe.STAGE_I, num_patches, pixels, sum(classes.values()), batch_i)
  stage_i = make_schedule(
      facts, machine, flops_i, batch_i, minutes * recipe.SHARE_I,
      recipe.MAX_EPOCHS_I)
  batch_ii = _fit_to_devices(recipe.BATCH_II, machine)
  flops_ii = cost.stage_ii_flops(
      recipe.STAGE_II, recipe.STAGE_I, num_patches, pixels, batch_ii)
  stage_ii = make_schedule(
      facts, machine, flops_ii, batch_ii, minutes * (1 - recipe.SHARE_I),
      recipe.MAX_EPOCHS_II)
  return Plan(
      facts=facts, machine=machine, minutes=minutes, task=task,
      classes=classes, task_options=choose_options(task, facts), patch=patch,
      grid=grid, stage_i=stage_i, stage_ii=stage_ii)


# ── Task ────────────────────────────────────────────────────────────────────


def choose_task(facts: Facts) -> str:
  """The task that the features are for."""
  if facts.segments is not None:
    if has_instances(facts.segments):
      return survey.PANOPTIC
    return survey.SEMANTIC
  if facts.depths is not None:
    return survey.DEPTH
  return survey.COLORIZATION


def has_instances(segments: Segments) -> bool:
  """Whether the segments say more than the class of each pixel does."""
  is_touching = segments.touching_share > recipe.MAX_TOUCHING
  return is_touching or not segments.is_stuff_merged


def choose_classes(task: str, facts: Facts) -> dict[str, int]:
  """Quantity → number of its classes, bins or channels."""
  if task == survey.DEPTH:
    return {"depth": recipe.DEPTH_BINS}
  if task == survey.COLORIZATION:
    return {"color": 3}
  # And void.
  classes = {"semantics": len(facts.segments.categories) + 1}
  if task == survey.PANOPTIC:
    most = int(facts.segments.counts_M.max())
    classes["instances"] = most + 1 + recipe.SPARE_INSTANCES
  return classes


def choose_options(task: str, facts: Facts) -> dict[str, Any]:
  """The fields that only this task has."""
  if task == survey.SEMANTIC:
    things = []
    for label, category in enumerate(facts.segments.categories):
      if category.isthing:
        things.append(label + 1)
    return {"things": tuple(things)}
  if task == survey.DEPTH:
    return {"min_depth": 0.001, "max_depth": round_up(facts.depths.farthest)}
  return {}


def round_up(depth: float) -> float:
  """The next number of two digits: 9.41 m becomes 9.5, and 65.2 m 66."""
  unit = 10.0 ** (math.floor(math.log10(depth)) - 1)
  rounded = math.ceil(depth / unit) * unit
  # Without the last bits, as in 9.500000000000002.
  return float(f"{rounded:.4g}")


def min_fraction(segments: Segments) -> float:
  """The share of an image below which a segment is dropped."""
  shares_S = segments.thing_shares_S
  if not len(shares_S):
    return recipe.MIN_FRACTION
  # 99 of 100 things of the data set are larger.
  small = float(np.percentile(shares_S, 1))
  return float(f"{min(recipe.MIN_FRACTION, small):.1g}")


# ── Sizes ───────────────────────────────────────────────────────────────────


def choose_grid(sizes_M2: np.ndarray) -> tuple[int, Size]:
  """(side of a patch, rows and columns of patches).

  Args:
    sizes_M2: height and width of images.
  """
  heights_M, widths_M = sizes_M2.T
  # The mean of logarithms: of as many upright images as others, a square.
  aspect = float(np.exp(np.mean(np.log(heights_M / widths_M))))
  num_pixels = float(np.median(heights_M * widths_M))
  patch = recipe.PATCH
  if num_pixels < recipe.NUM_PATCHES * patch**2:
    patch = recipe.SMALL_PATCH
  # Labels are not larger than the images.
  most = max(4, int(num_pixels // patch**2))
  return patch, best_grid(min(recipe.NUM_PATCHES, most), aspect)


def best_grid(num_patches: int, aspect: float) -> Size:
  """Rows and columns with about so many patches, in an aspect rows : columns.

  Args:
    num_patches: that are wanted; at most a tenth more are taken.
    aspect: height / width.
  """
  best = (2, 2)
  smallest_error = math.inf
  for rows in range(2, num_patches // 2 + 1):
    for columns in range(2, num_patches // 2 + 1):
      count = rows * columns
      if count > 1.1 * num_patches:
        break
      aspect_error = abs(math.log(rows / columns / aspect))
      count_error = abs(math.log(count / num_patches))
      # A wrong aspect distorts all images. A few patches more or less do not
      # matter.
      error = aspect_error + count_error / 2
      if error < smallest_error:
        smallest_error = error
        best = (rows, columns)
  return best


# ── Lengths ─────────────────────────────────────────────────────────────────


def make_schedule(
    facts: Facts,
    machine: Machine,
    flops: float,
    batch_size: int,
    minutes: float,
    max_epochs: int,
) -> Schedule:
  """As many steps as the time allows and the images are good for.

  Args:
    facts: of the data set.
    machine: that will train.
    flops: operations of a step.
    batch_size: images of a step.
    minutes: for all of the stage.
    max_epochs: how often each image may be seen.
  """
  seconds = machine.seconds_per_step(flops, batch_size, facts.decode_seconds)
  # Evaluators take their share of each minute of training.
  seconds_with_evals = seconds / (1 - recipe.EVAL_SHARE)
  training_minutes = max(0, minutes - recipe.STARTUP_MINUTES)
  affordable = 60 * training_minutes / seconds_with_evals
  num_train = facts.splits.num_train
  useful = max_epochs * num_train / batch_size
  wanted = max(recipe.MIN_STEPS, min(affordable, useful))
  # Each evaluation follows a whole number of hundreds.
  unit = 100 * recipe.NUM_EVALS
  total_steps = max(unit, int(wanted // unit) * unit)
  eval_steps = total_steps // recipe.NUM_EVALS
  steps_per_checkpoint = 60 * recipe.CHECKPOINT_MINUTES / seconds_with_evals
  checkpoint_steps = max(100, int(steps_per_checkpoint // 100) * 100)
  expected = total_steps * seconds_with_evals / 60 + recipe.STARTUP_MINUTES
  return Schedule(
      batch_size=batch_size,
      total_steps=total_steps,
      eval_steps=eval_steps,
      checkpoint_steps=min(eval_steps, checkpoint_steps),
      log_steps=100,
      warmup_steps=min(recipe.WARMUP_STEPS, total_steps // 10),
      epochs=total_steps * batch_size / num_train,
      minutes=expected,
      is_capped=useful < affordable)


def _fit_to_devices(batch_size: int, machine: Machine) -> int:
  """A batch that the devices can share, and no smaller."""
  per_device = math.ceil(batch_size / machine.num_devices)
  return per_device * machine.num_devices
