"""Examples that cannot be read or preprocessed: explained or replaced.

With config.on_bad_example='error' the first bad example ends the run, and
`explain` finds out which one it was. With 'skip', `BadExamples` puts another
example (training) or zeros (evaluation) in its place and warns.
"""

import functools
import itertools
import logging
from typing import Any

import numpy as np

from pp import order
from pp.builder import first_line
from pp.cached_arrays import CachedArrays
from pp.examples import BAD_RECORD, Examples
from pp.order import Plan
from uvim.registry import ConfigError

_MAX_TRIES = 100    # After so many bad examples in a row, all count as bad.
_MAX_WARNINGS = 20  # All bad examples are counted, but few are named.

Example = dict[str, Any]


class BadExamples:
  """Replaces bad examples, the same way on any host and after any restart."""

  def __init__(self, examples: Examples, *, seed: int, blanks: bool,
               cached: CachedArrays | None = None):
    """Nothing is read yet.

    Args:
      examples: makes the examples.
      seed: of the stream whose examples are replaced.
      blanks: zeros take the place of a bad example (evaluation), instead of
        another example (training).
      cached: an example that a cache lacks is bad too; None: no cache.
    """
    self._examples = examples
    self._seed = seed
    self._blanks = blanks
    self._cached = cached
    self._warned: set[int] = set()

  def replace(self, plan: Plan, row: int, reason: str) -> tuple[Example, int]:
    """What takes the place of a bad example, and its number in the split.

    Zeros have the number BLANK.

    Args:
      plan: of the batch.
      row: place of the bad example in it.
      reason: why it is bad.

    Raises:
      ConfigError: no good example can be found.
    """
    # The warning names the bad example, not the one that replaces it.
    index = int(plan.index_B[row])
    self._warn(index, reason)
    if self._blanks:
      return self._blank, order.BLANK
    return self._stand_in(plan, row)

  def why_not_cached(self, augmentation: int, index: int) -> str:
    """Why a cache lacks an example; '' if none does."""
    if self._cached is None:
      return ""
    return self._cached.why_missing(augmentation, index)

  def _stand_in(self, plan: Plan, row: int) -> tuple[Example, int]:
    """Another example, with its own augmentation of that number."""
    num_examples = self._examples.source.num_examples
    indices = order.stand_ins(plan.seed_B2[row], num_examples)
    # The stand-in keeps the number of the augmentation but draws from its own
    # seed. So it is the very example whose code a cache holds.
    augmentation = plan.augmentation_B[row]
    # An example may be drawn twice; the message counts it once.
    tried = {int(plan.index_B[row])}
    for index in itertools.islice(indices, _MAX_TRIES):
      tried.add(index)
      # This look-up is cheap, and making an example is not.
      reason = self.why_not_cached(augmentation, index)
      if not reason:
        example, reason = self._try(index, augmentation)
      if not reason:
        return example, index
      self._warn(index, reason)
    raise self._all_are_bad(len(tried), reason)

  @functools.cached_property
  def _blank(self) -> Example:
    """Zeros in the shape of the first good example; '_mask' becomes False."""
    # The first examples of a split may be bad too.
    num_tries = min(_MAX_TRIES, self._examples.source.num_examples)
    for index in range(num_tries):
      example, reason = self._try(index, 0)
      if not reason:
        return _zeros_like(example)
    raise self._all_are_bad(num_tries, reason)

  def _try(self, index: int, augmentation: int) -> tuple[Example, str]:
    """(an example, ''), or ({}, why it is bad)."""
    seed_2 = order.example_seeds(self._seed, [augmentation], [index])[0]
    try:
      return self._examples.make_alone(index, seed_2), ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told.
      return {}, first_line(error)

  def _warn(self, index: int, reason: str) -> None:
    """Names a bad example, once; goes quiet after many of them."""
    # A bad example comes again in each epoch. One warning is enough.
    if index in self._warned or len(self._warned) >= _MAX_WARNINGS:
      return
    self._warned.add(index)
    ending = ""
    if len(self._warned) == _MAX_WARNINGS:
      ending = "; further ones are only counted"
    logging.getLogger("uvim").warning(
        "%s: skipped example %d: %s%s", self._examples.where, index, reason,
        ending)

  def _all_are_bad(self, num_tried: int, reason: str) -> ConfigError:
    return ConfigError(
        f"{self._examples.where}: no good example among the {num_tried} that "
        f"were tried in {self._examples.pp!r}; the last one: {reason}")


def explain(error: Exception, plan: Plan, examples: Examples, *,
            skips: bool) -> Exception:
  """Finds the example that broke a batch by making them one by one.

  Args:
    error: what the stream raised.
    plan: of the batch.
    examples: makes the examples.
    skips: examples that fail are not the reason, since they are skipped; then
      only shapes that differ can be.

  Returns:
    A ConfigError that names the example, or the error if none is to blame.
  """
  # Key of a tensor → its first shape, and the example that has it.
  first_of_shape: dict[str, tuple[str, str]] = {}
  for row, index in enumerate(plan.index_B.tolist()):
    # The stream replaces a bad example, so that cannot break a batch.
    try:
      name = _name_of(index, examples)
    except BAD_RECORD as cause:
      if skips:
        continue
      return ConfigError(f"{examples.where}: example {index} cannot be read: "
                         f"{first_line(cause)}")
    try:
      example = examples.make_alone(index, plan.seed_B2[row])
    except Exception as cause:  # noqa: BLE001 - whatever it is, it is told.
      if skips:
        continue
      return ConfigError(f"{examples.where}: {name} fails in {examples.pp!r}: "
                         f"{first_line(cause)}")
    # A batch stacks its examples, so a tensor must have one shape in all.
    for key, value in example.items():
      shape = str(_shape_of(value))
      first_shape, first_name = first_of_shape.setdefault(key, (shape, name))
      if shape != first_shape:
        return ConfigError(
            f"{examples.where}: {key!r} cannot be batched: {first_name} has "
            f"shape {first_shape}, {name} {shape}. Resize it, or leave it "
            f"out with keep(...), in {examples.pp!r}.")
  return ConfigError(f"{examples.where}: a batch cannot be made by "
                     f"{examples.pp!r}: {first_line(error)}")


def _name_of(index: int, examples: Examples) -> str:
  """How messages call an example; raises BAD_RECORD if it cannot be read."""
  reason = examples.why_unreadable(index)
  if reason:
    raise ConfigError(reason)
  return f"example {index} (image/id {examples.image_id(index)})"


def _shape_of(value: Any) -> Any:
  """Shapes of a tree of arrays, as lists."""
  if isinstance(value, dict):
    return {key: _shape_of(part) for key, part in value.items()}
  return list(np.shape(value))


def _zeros_like(value: Any) -> Any:
  """Zeros for every array of a tree."""
  if isinstance(value, dict):
    return {key: _zeros_like(part) for key, part in value.items()}
  # This also makes '_mask' False: the example then counts for nothing.
  return np.zeros_like(value)
