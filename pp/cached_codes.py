"""The oracle's codes of a split, as a code cache holds them.

Dimensions: B examples of a batch on this process · N examples of the split ·
R augmentations of an example · L words of a code.
"""

import numpy as np

from pp.order import Plan
from pp.sources import Source
from uvim.registry import ConfigError


class CachedCodes:
  """Looks up the code of an augmentation of an example."""

  def __init__(self, codes_RNL: np.ndarray, where: str):
    """Wraps the array.

    Args:
      codes_RNL: int [R, N, L]; −1 marks an example that was bad when the codes
        were written.
      where: data set and split, for messages.
    """
    self._codes_RNL = codes_RNL
    self._where = where

  def why_missing(self, augmentation: int, index: int) -> str:
    """Why there is no code for an example; '' if there is one."""
    # The first word tells: words are 0 or more, and a bad example has −1.
    if self._codes_RNL[augmentation, index, 0] >= 0:
      return ""
    return "the code cache has none for it; it was bad when that was written"

  def of_plan(self, plan: Plan) -> np.ndarray:
    """The codes of a batch: int32 [B, L].

    Raises:
      ConfigError: an example has no code.
    """
    # Without this check, a −1 would enter training as if it were a word.
    pairs = zip(plan.augmentation_B, plan.index_B, strict=True)
    for augmentation, index in pairs:
      reason = self.why_missing(augmentation, index)
      if reason:
        raise ConfigError(
            f"{self._where}: code of example {index}: {reason}. Set "
            "config.on_bad_example='skip' as then.")
    # Two arrays of numbers pick one code for each example.
    codes_BL = self._codes_RNL[plan.augmentation_B, plan.index_B]
    return codes_BL.astype(np.int32)


def open_codes(codes_RNL: np.ndarray | None, codes_per_image: int | None,
               source: Source) -> CachedCodes | None:
  """The codes of a split; None for None.

  Raises:
    ConfigError: they are of another split or another number of augmentations.
  """
  if codes_RNL is None:
    return None
  if codes_RNL.ndim != 3 or codes_RNL.dtype.kind != "i":
    raise ConfigError(
        f"code_cache: holds {codes_RNL.dtype} {list(codes_RNL.shape)}; "
        "allowed: integers [augmentations, examples, length].")
  num_augmentations, num_examples, _ = codes_RNL.shape
  # The numbers of the examples are the index. So a cache of another size is one
  # of another split.
  wanted = (codes_per_image, source.num_examples)
  if (num_augmentations, num_examples) != wanted:
    raise ConfigError(
        f"code_cache: holds codes of {num_examples} examples, "
        f"{num_augmentations} of each; {source.dataset} {source.split} has "
        f"{source.num_examples} and codes_per_image is {codes_per_image}.")
  return CachedCodes(codes_RNL, f"{source.dataset} {source.split}")
