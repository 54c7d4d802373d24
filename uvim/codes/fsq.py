"""FSQ: each number of a vector is rounded to one of a few levels.

B batch · L code length · E numbers of a code vector · Q number of words

With `levels` (8, 6, 5) a place has three numbers, which take 8, 6 and 5 values.
Each of the 240 triples is a word. If its levels are a, b and c, counted from 0,
the word is a + 8·b + 48·c. Nothing is learned and no loss is added; the words
come into use by themselves.

Source: Mentzer et al. 2023, "Finite Scalar Quantization: VQ-VAE Made Simple"
(arXiv:2309.15505).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.codes import base, computed, vectors
from uvim.typing import CodeVectors, Words

# How far the bounded numbers stay away from the borders of the outer levels.
EPSILON = 1e-3
# Between more levels than that, EPSILON would put the outer ones out of reach.
_MAX_LEVELS = 1000


def _are_levels(value) -> bool:
  if not isinstance(value, (tuple, list)) or not value:
    return False
  is_level = fields.integer(3, _MAX_LEVELS).fits
  return all(map(is_level, value)) and math.prod(value) <= computed.MAX_WORDS


_LEVELS = fields.Check(
    f"integers in 3..{_MAX_LEVELS} whose product is at most "
    f"{computed.MAX_WORDS}, as in (8, 6, 5); two levels are not possible, "
    "because 0 does not lie between them: quantizer 'lfq' has two",
    _are_levels)


@dataclasses.dataclass(frozen=True)
class FSQ(computed.ComputedWords):
  """A grid of words; each number of a vector goes to its nearest level."""
  dict_size: int = fields.field(
      doc="Number of words: the product of `levels`.",
      check=fields.integer(1))
  codeword_dim: int = fields.field(
      doc="Numbers of a code vector: as many as `levels`.",
      check=fields.integer(1))
  levels: tuple[int, ...] = fields.field(
      doc="How many values each number of a vector takes. The paper advises "
      "(8, 6, 5) for about 2^8 words, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) "
      "for 2^12, (8, 8, 8, 6, 5) for 2^14, (8, 8, 8, 5, 5, 5) for 2^16.",
      source="FSQ", check=_LEVELS)

  if_unused = "A few images need a few words: give model.levels fewer of them."

  def __post_init__(self):
    shown = f"levels = {tuple(self.levels)}"
    computed.check_size("dict_size", self.dict_size, math.prod(self.levels),
                        f"the product of {shown}")
    computed.check_size("codeword_dim", self.codeword_dim, len(self.levels),
                        f"as many as {shown}")

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    del arrays, rngs_B, step
    # In float32: bfloat16 would round some numbers to another level.
    bounded_BLE = self.bound(x_BLE.astype(jnp.float32))
    fixed_BLE = jax.lax.stop_gradient(bounded_BLE)
    # From the integers, not from the code vectors: 3/7 is rounded, so that
    # seven times it may be less than 3.
    level_BLE = jnp.round(fixed_BLE).astype(jnp.int32) + self._middle_11E
    code_BL = jnp.sum(level_BLE * self._place_values_11E, axis=-1)
    # The gradient sees the bound, but not the rounding.
    z_BLE = vectors.straight_through(
        self.vectors(code_BL), bounded_BLE * self._step_11E)
    return base.Coded(
        z_BLE=z_BLE,
        code=code_BL,
        loss_B=jnp.zeros(len(x_BLE)),
        stats=self.stats(code_BL),
        logs={})

  def bound(self, x_BLE: CodeVectors) -> CodeVectors:
    """Squeezes each number (float32) into the range of its levels.

    Rounded, it is an integer from -⌊l/2⌋ to ⌈l/2⌉ - 1, of l levels.
    """
    levels_11E = self._levels_11E
    half_width_11E = (levels_11E - 1) * (1 - EPSILON) / 2
    # An even number of integers has 0 not in its middle, but half a step above.
    offset_11E = np.where(levels_11E % 2, 0.0, 0.5)
    # So that 0 stays about 0. The authors meant the inverse of tanh; their code
    # has tan, and so has this one.
    shift_11E = np.tan(offset_11E / half_width_11E)
    shifted_BLE = x_BLE + np.float32(shift_11E)
    return (jnp.tanh(shifted_BLE) * np.float32(half_width_11E)
            - np.float32(offset_11E))

  def vectors(self, code_BL: Words) -> CodeVectors:
    integers_BLE = self.levels_of(code_BL) - self._middle_11E
    return integers_BLE.astype(jnp.float32) * self._step_11E

  def levels_of(self, code_BL: Words) -> base.Array:
    """The levels of words, counted from 0: int32 [B, L, E]."""
    return code_BL[..., None] // self._place_values_11E % self._levels_11E

  # Constants, with two axes to be spread over batch and places.

  @property
  def _levels_11E(self) -> np.ndarray:
    return np.array(self.levels, np.int32)[None, None]

  @property
  def _middle_11E(self) -> np.ndarray:
    """The level of the number 0."""
    return self._levels_11E // 2

  @property
  def _step_11E(self) -> np.ndarray:
    """From a level to the next one in a code vector, so that it is in [-1, 1].

    To multiply with: a compiler may turn a division into that, or not, and the
    vectors of a word must be the same in every program.
    """
    return np.float32(1 / self._middle_11E)

  @property
  def _place_values_11E(self) -> np.ndarray:
    """What a step of each level adds to the word; 1 for the first."""
    place_values = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
    return np.array(place_values, np.int32)[None, None]
