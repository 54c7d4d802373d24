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

from uvim.registry import ConfigError
from uvim.typing import Array, Bool, Int

# Mixed into a seed, because the sampler of codes starts from the same seeds.
_SALT = 0x6d61736b


def grid_of(length: int) -> tuple[int, int] | None:
  """Rows and columns of a code of a square number of places; else None."""
  side = math.isqrt(length)
  return (side, side) if side ** 2 == length else None


def region_mask(length: int, region: Sequence[int] | None, *,
                where: str = "mask_region") -> Bool[np.ndarray, "L"]:
  """The places of a code that lie in a region.

  Args:
    length: L.
    region: (top, left, bottom, right) on the code's square grid, in words, the
      last two exclusive; None: the whole code.
    where: what the region is called, for the message.

  Raises:
    ConfigError: no such region.
  """
  if region is None:
    return np.ones(length, bool)
  region, grid = tuple(region), grid_of(length)
  is_inside = grid is not None and len(region) == 4
  if is_inside:
    top, left, bottom, right = region
    is_inside = 0 <= top <= bottom <= grid[0] and 0 <= left <= right <= grid[1]
  if not is_inside:
    raise ConfigError(
        f"{where} = {region}; it must be (top, left, bottom, right) on a "
        f"square grid of words, and the code has {length} of them.")
  masked = np.zeros(grid, bool)
  masked[top:bottom, left:right] = True
  return masked.reshape(-1)


def check_mask(mask: str | int, num_words: int, *, where: str = "mask") -> None:
  """Raises a ConfigError if `mask` is not one that `mask_code` knows."""
  is_word = type(mask) is int and 0 <= mask < num_words
  if mask not in ("zeros", "random") and not is_word:
    raise ConfigError(
        f"{where} = {mask!r}; it must be 'zeros', 'random' or the index of one "
        f"word, an integer in 0..{num_words - 1}.")


def mask_code(
    code_BL: Int[Array, "B L"], mask: str | int, num_words: int, *,
    region: Sequence[int] | None = None,
    seeds_B: Int[Array, "B"] | None = None,
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
  """A code with something else in a region.

  Args:
    code_BL: the code.
    mask: what stands in the region: "zeros" for no word, "random" for words
      drawn evenly, an integer for this one word everywhere.
    num_words: Q.
    region: see `region_mask`.
    seeds_B: one integer per example, from which its random words follow.

  Returns:
    The code, and which of its places are dropped.

  Raises:
    ConfigError: an unknown mask, or a region outside of the grid.
  """
  length = code_BL.shape[1]
  masked_1L = region_mask(length, region)[None]
  check_mask(mask, num_words)
  nothing_BL = jnp.zeros(code_BL.shape, bool)
  if mask == "zeros":
    return code_BL, nothing_BL | masked_1L
  if mask == "random":
    words_BL = jax.vmap(lambda seed: _random_words(seed, length, num_words))(
        seeds_B)
  else:
    words_BL = jnp.full_like(code_BL, mask)
  return jnp.where(masked_1L, words_BL, code_BL), nothing_BL


def _random_words(seed, length, num_words):
  rng = jax.random.fold_in(jax.random.key(seed), _SALT)
  return jax.random.randint(rng, (length,), 0, num_words)
