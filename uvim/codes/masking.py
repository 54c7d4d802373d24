"""Masking: a region of a code that says nothing, or something else (Fig 10).

B batch · L code length · Q number of words

Two callers: predictions inside a compiled program (`mask_code`, JAX) and the
inference interface on the host (`region_mask`, numpy).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.codes.base import CodeSpec
from uvim.registry import ConfigError
from uvim.typing import Array, Bool, Dropped, Seeds, Words

# The places of one code, on the host.
Places = Bool[np.ndarray, "L"]

# Mixed into a seed, because the sampler of codes starts from the same seeds.
_SALT = 0x6d61736b


def grid_of(length: int) -> tuple[int, int] | None:
  """Rows and columns of a code of a square number of places; else None."""
  side = math.isqrt(length)
  if side ** 2 != length:
    return None
  return (side, side)


def region_mask(
    length: int,
    region: Sequence[int] | None,
    *,
    grid: tuple[int, int] | None = None,
    where: str = "mask_region",
) -> Places:
  """The places of a code that lie in a region.

  Args:
    length: L.
    region: (top, left, bottom, right) on the code's grid, in words, the last
      two exclusive; None: the whole code.
    grid: rows and columns of the code; None: a square.
    where: what the region is called, for the message.

  Raises:
    ConfigError: no such region.
  """
  if region is None:
    return np.ones(length, bool)
  region = tuple(region)
  grid = grid or grid_of(length)
  if not _is_inside(region, grid):
    size = f"its {length} words lie on none"
    if grid is not None:
      size = f"{grid[0]} × {grid[1]} words"
    raise ConfigError(
        f"{where} = {region}; it must be (top, left, bottom, right) on the "
        f"grid of the code: {size}.")
  top, left, bottom, right = region
  masked = np.zeros(grid, bool)
  masked[top:bottom, left:right] = True
  # Places of a code lie row by row on its grid.
  return masked.reshape(-1)


def _is_inside(region, grid):
  """Whether the four numbers of a region lie on the grid, in order."""
  if grid is None or len(region) != 4:
    return False
  top, left, bottom, right = region
  num_rows, num_columns = grid
  are_rows = 0 <= top <= bottom <= num_rows
  return are_rows and 0 <= left <= right <= num_columns


def mask_check(num_words: int | None) -> fields.Check:
  """Which masks `mask_code` knows, for a code of Q words; None: of numbers."""
  if num_words is None:
    return fields.Check("'zeros': this code has no words to put in",
                        lambda mask: mask == "zeros")

  def is_mask(mask):
    # `type`, not `isinstance`: True is an int, but no word.
    is_word = type(mask) is int and 0 <= mask < num_words
    return is_word or mask in ("zeros", "random")

  allowed = ("'zeros', 'random' or the index of one word, an integer in "
             f"0..{num_words - 1}")
  return fields.Check(allowed, is_mask)


def check_mask(
    mask: str | int,
    num_words: int | None,
    *,
    where: str = "mask",
) -> None:
  """Raises a ConfigError if `mask` is not one that `mask_code` knows."""
  check = mask_check(num_words)
  if not check.fits(mask):
    raise ConfigError(f"{where} = {mask!r}; it must be {check.allowed}.")


def mask_code(
    code_BL: Words,
    mask: str | int,
    num_words: int | None,
    *,
    region: Sequence[int] | None = None,
    grid: tuple[int, int] | None = None,
    seeds_B: Seeds | None = None,
) -> tuple[Words, Dropped]:
  """A code with something else in a region.

  Args:
    code_BL: the code, [B, L]; or [B, L, R], with several words a place.
    mask: what stands in the region: "zeros" for no word, "random" for words
      drawn evenly, an integer for this one word everywhere.
    num_words: Q; None where the code is made of real numbers.
    region, grid: see `region_mask`.
    seeds_B: one integer per example, from which its random words follow.

  Returns:
    The code, and which of its places are dropped.

  Raises:
    ConfigError: an unknown mask, or a region outside of the grid.
  """
  batch_size, length = code_BL.shape[:2]
  masked_1L = region_mask(length, region, grid=grid)[None]
  check_mask(mask, num_words)
  nothing_BL = jnp.zeros((batch_size, length), bool)
  if mask == "zeros":
    # The words stay as they are; their places count as dropped.
    return code_BL, nothing_BL | masked_1L
  if mask == "random":
    words_BL = _random_words(seeds_B, code_BL.shape[1:], num_words)
  else:
    words_BL = jnp.full_like(code_BL, mask)
  if code_BL.ndim > masked_1L.ndim:
    # All words of a place are masked.
    masked_1L = masked_1L[..., None]
  masked_code_BL = jnp.where(masked_1L, words_BL, code_BL)
  return masked_code_BL, nothing_BL


def says_nothing(code: Array, spec: CodeSpec) -> Dropped:
  """Which places of codes lack a word: -1 stands there, or NaN for a number.

  Args:
    code: (B, *spec.shape).
    spec: of these codes.
  """
  if not spec.is_discrete:
    return jnp.any(jnp.isnan(code), axis=-1)
  if spec.words_per_place > 1:
    return jnp.any(code < 0, axis=-1)
  return code < 0


def _random_words(
    seeds_B: Seeds,
    shape: tuple[int, ...],
    num_words: int,
) -> Words:
  """Words drawn evenly, for each example from its own seed: [B, *shape]."""
  def words_of(seed):
    key = jax.random.key(seed)
    salted_key = jax.random.fold_in(key, _SALT)
    return jax.random.randint(salted_key, shape, 0, num_words)

  return jax.vmap(words_of)(seeds_B)
