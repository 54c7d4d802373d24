"""How many words of a code are masked, by how far its decoding has come.

T steps of a decoding · L code length

A schedule maps a ratio, from 0 at the start to 1 at the end, to the share of
the words that are still unknown. Training draws the ratio at random.

Source: Chang et al., "MaskGIT: Masked Generative Image Transformer", and its
released code, whose names the schedules have.
"""

import types
from typing import Any

import numpy as np

from uvim.fields import Check
from uvim.typing import Float, Int

# The functions of a schedule: numpy, or jax.numpy under jit.
Numpy = types.ModuleType

_POWER = "pow"
# A schedule never leaves this range.
_LEAST = 1e-6
_MOST = 1.0


def _uniform(ratio, num_words, xp):
  del num_words, xp
  return 1 - ratio


def _cosine(ratio, num_words, xp):
  del num_words
  return xp.cos(np.float32(np.pi / 2) * ratio)


def _log(ratio, num_words, xp):
  return -xp.log2(ratio) / xp.log2(num_words)


def _exp(ratio, num_words, xp):
  return 1 - xp.exp2(-xp.log2(num_words) * (1 - ratio))


_SCHEDULES = {
    "uniform": _uniform,
    "cosine": _cosine,
    "log": _log,
    "exp": _exp,
}


def masked_share(
    ratio: Float[Any, "*b"],
    num_words: Float[Any, "*b"],
    method: str,
    xp: Numpy = np,
) -> Float[Any, "*b"]:
  """The share of words that are masked, in [1e-6, 1].

  Args:
    ratio: float32 in (0, 1].
    num_words: float32 ≥ 2, how many words were unknown at the start.
    method: a key of this file's table, or `pow` and an exponent.
    xp: numpy, or jax.numpy for traced arrays.
  """
  exponent = _exponent(method)
  if exponent is None:
    share = _SCHEDULES[method](ratio, num_words, xp)
  else:
    share = 1 - ratio ** np.float32(exponent)
  return xp.clip(share, _LEAST, _MOST)


def _exponent(method: str) -> float | None:
  """That of `pow2`, for instance; None for another method.

  Raises:
    ValueError: no number follows.
  """
  if not method.startswith(_POWER):
    return None
  return float(method.removeprefix(_POWER))


def _is_method(value):
  if not isinstance(value, str):
    return False
  try:
    exponent = _exponent(value)
  except ValueError:
    return False
  if exponent is None:
    return value in _SCHEDULES
  return 0 < exponent < np.inf


METHOD = Check(
    "one of " + ", ".join(_SCHEDULES) + ", or pow and a number > 0, as in pow2",
    _is_method, tuple(_SCHEDULES))


def num_masked(
    num_steps: int, seq_len: int, method: str) -> Int[np.ndarray, "T L+1"]:
  """How many words the schedule masks after each step.

  Entry [t, u]: after step t of a decoding that began with u unknown words.
  The last step masks none by its schedule.

  In float32, as the original computes it: 16 words · cos 60° are 7 in float32
  and 8 in float64. On the host, where every device gets the same numbers.
  """
  steps = np.arange(1, num_steps + 1, dtype=np.float32)
  ratio_T1 = (steps / np.float32(num_steps))[:, None]
  unknown_L = np.arange(seq_len + 1, dtype=np.float32)[None]
  # A code with one unknown word has nothing to share out.
  share_TL = masked_share(ratio_T1, np.maximum(unknown_L, 2), method)
  return np.floor(unknown_L * share_TL).astype(np.int32)
