"""What caches hold of the examples of a split: codes, features.

Dimensions: B examples of a batch on this process · N examples of the split ·
R augmentations of an example.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from pp.order import BLANK, Plan
from uvim.registry import ConfigError

# ([R, N, …], uint32 [R, N] or None: the CRC-32 of each row).
Stored = tuple[np.ndarray, np.ndarray | None]

# Key of the batch → the field of the config that names the cache.
FIELDS = {"code": "code_cache", "features": "feature_cache"}


class CachedArrays:
  """Looks up what caches hold of an augmentation of an example."""

  def __init__(self, stored: Mapping[str, Stored], where: str):
    """Wraps the arrays.

    Args:
      stored: by their keys in a batch, from FIELDS. The first number of a row
        tells whether the example was bad when the cache was written: a negative
        integer, or NaN.
      where: data set and split, for messages.
    """
    self._stored = stored
    self._where = where

  def why_missing(self, augmentation: int, index: int) -> str:
    """Why a cache lacks an example; '' if none does."""
    for key, (array, _) in self._stored.items():
      first_number = array[augmentation, index].flat[0]
      if array.dtype.kind == "i":
        is_bad = first_number < 0
      else:
        is_bad = np.isnan(first_number)
      if is_bad:
        return (f"config.{FIELDS[key]} has no {key} of it; it was bad when "
                "that was written")
    return ""

  def of_plan(self, plan: Plan) -> dict[str, np.ndarray]:
    """The rows of a batch, [B, …]; integers as int32.

    A row is zeros where the number of the example is BLANK.

    Raises:
      ConfigError: a cache lacks an example, or a row is damaged.
    """
    # Without this check, the mark of a bad example would enter training.
    pairs = zip(plan.augmentation_B, plan.index_B, strict=True)
    for augmentation, index in pairs:
      if index == BLANK:
        continue
      reason = self.why_missing(augmentation, index)
      if reason:
        raise ConfigError(
            f"{self._where}: example {index}: {reason}. Set "
            "config.on_bad_example='skip' as then.")
    batch = {}
    for key, (array, checksums_RN) in self._stored.items():
      # Two arrays of numbers pick one row for each example; BLANK picks the
      # last one of the split.
      rows = array[plan.augmentation_B, plan.index_B]
      if checksums_RN is not None:
        wanted_B = checksums_RN[plan.augmentation_B, plan.index_B]
        self._check_rows(key, rows, wanted_B, plan)
      rows[plan.index_B == BLANK] = 0
      is_integer = rows.dtype.kind == "i"
      batch[key] = rows.astype(np.int32) if is_integer else rows
    return batch

  def _check_rows(self, key: str, rows: np.ndarray, wanted_B: np.ndarray,
                  plan: Plan) -> None:
    for place, row in enumerate(rows):
      if zlib.crc32(row) != wanted_B[place]:
        raise ConfigError(
            f"config.{FIELDS[key]}: example {plan.index_B[place]} of "
            f"{self._where} does not fit its checksum: bits flipped. Delete "
            "the folder and write it again.")


def open_cached(stored: Mapping[str, Stored] | None,
                codes_per_image: int | None, *, num_examples: int, where: str
                ) -> CachedArrays | None:
  """The cached arrays of a split; None without any.

  Args:
    stored: see `CachedArrays`.
    codes_per_image: R of the run; 1 where the split is evaluated.
    num_examples: N of the split.
    where: data set and split, for messages.

  Raises:
    ConfigError: they are of another split or another number of augmentations.
  """
  if not stored:
    return None
  for key, (array, _) in stored.items():
    is_number = array.dtype.kind in "if"
    if array.ndim < 3 or not is_number:
      raise ConfigError(
          f"config.{FIELDS[key]}: holds {array.dtype} {list(array.shape)}; "
          "allowed: numbers [augmentations, examples, …].")
    # The numbers of the examples are the index. So a cache of another size is
    # one of another split.
    found = array.shape[:2]
    if found != (codes_per_image, num_examples):
      raise ConfigError(
          f"config.{FIELDS[key]} is for {found[1]} examples, {found[0]} "
          f"augmentations of each; {where} has {num_examples} and "
          f"codes_per_image is {codes_per_image}.")
  return CachedArrays(stored, where)
