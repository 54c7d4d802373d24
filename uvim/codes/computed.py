"""Words whose vectors are computed, in place of a codebook.

B batch · L code length · E numbers of a code vector · Q number of words

Quantizers without a codebook round vectors to points that are known beforehand.
A word is the number of its point. They learn nothing, so they have no arrays.
"""

import abc

import jax.numpy as jnp

from uvim.codes import base, usage
from uvim.registry import ConfigError
from uvim.typing import CodeVectors, Words

# Training counts each word, and stage II gives each one a probability.
MAX_WORDS = 2 ** 24


class ComputedWords(base.WordQuantizer):
  """A quantizer without a codebook. "No word" is the zero vector.

  `dict_size` and `codeword_dim` follow from other fields. A config gives them
  because stage II and reports read them there.
  """

  @abc.abstractmethod
  def vectors(self, code_BL: Words) -> CodeVectors:
    """The vectors (float32) of words in 0..Q-1; of others, any."""

  def embed(self, arrays, code, dropped_BL=None):
    z_BLE = self.vectors(code)
    is_word_BL = (code >= 0) & (code < self.dict_size)
    z_BLE = jnp.where(is_word_BL[..., None], z_BLE, jnp.nan)
    if dropped_BL is not None:
      z_BLE = self.drop(arrays, z_BLE, dropped_BL)
    return z_BLE

  def stats(self, code_BL: Words) -> dict[str, base.Array]:
    """The `Coded.stats`: how often each word was chosen."""
    return {"counts": usage.histogram(code_BL, self.dict_size)}

  def usage(self, stats):
    return stats["counts"]


def check_size(name: str, given: int, wanted: int, reason: str) -> None:
  """Raises a ConfigError if a field has not the size that others ask for.

  Args:
    name: of the field.
    given: its value.
    wanted: the only value that fits.
    reason: what that is, for the message.
  """
  if given != wanted:
    raise ConfigError(
        f"config.model.{name} = {given}; it must be {wanted}, {reason}.")
