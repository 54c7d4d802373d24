"""How much signal and how much noise there is at a time.

Time t runs from 0, where all is signal, to 1, where all is noise. A schedule is
γ(t), the variance of the signal. That of the noise is 1 - γ(t). In float32 a
subtraction would leave nothing of it near t = 0, so a schedule computes both.

A schedule is a name, and with some names numbers behind an '@':

  cosine             the one that Pix2Seq-D uses
  cosine@s,e,τ       a part of a cosine, from s to e, to the power 2τ
  improved_cosine    Nichol & Dhariwal 2021, "Improved Denoising Diffusion
                     Probabilistic Models"
  linear             noise is added at a rate that grows linearly, as in Ho et
                     al. 2020, "Denoising Diffusion Probabilistic Models"
  simple_linear      γ falls linearly
  sigmoid@s,e,τ      a part of a logistic curve
  log@s,e,reversed   a part of a logarithm; `reversed` swaps s and e

The last three and cosine@… are those of Chen 2023, "On the Importance of Noise
Scheduling for Diffusion Models" (arXiv:2301.10972).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.registry import ConfigError
from uvim.typing import Array, Float

Time = Float[Array, "*b"]

# γ is never 0, so that one may divide by it.
_LEAST = 1e-9
_RIGHT_ANGLE = np.float32(np.pi / 2)


class Level(NamedTuple):
  """What a noisy array is made of.

  Attributes:
    signal: γ, the variance of the signal.
    noise: 1 - γ, the variance of the noise.
  """
  signal: Float[Array, "*b"]
  noise: Float[Array, "*b"]

  @classmethod
  def of(cls, signal: Float[Array, "*b"]) -> "Level":
    """The level of a given γ, with the noise that float32 leaves."""
    return cls(signal, 1 - signal)

  def on_maps(self) -> "Level":
    """Levels [B] with axes for rows, columns and bits."""
    return Level(
        self.signal[:, None, None, None], self.noise[:, None, None, None])


def _cosine(t: Time) -> Level:
  angle = (t + 0.0002) / 1.00025 * _RIGHT_ANGLE
  return Level(jnp.square(jnp.cos(angle)), jnp.square(jnp.sin(angle)))


def _cosine_part(t: Time, start: float, end: float, tau: float) -> Level:
  first, last = np.cos(np.array([start, end]) * np.pi / 2)**(2 * tau)
  cosine = jnp.cos((t * (end - start) + start) * _RIGHT_ANGLE)
  signal = (cosine**(2 * tau) - last) / (first - last)
  return Level.of(jnp.clip(signal, _LEAST, 1))


def _improved_cosine(t: Time) -> Level:
  shift = 0.008
  at_start = shift / (1 + shift) * _RIGHT_ANGLE
  since_start = t / (1 + shift) * _RIGHT_ANGLE
  angle = at_start + since_start
  whole = np.square(np.cos(at_start))
  signal = jnp.square(jnp.cos(angle)) / whole
  # cos²a - cos²b = sin(b + a) · sin(b - a).
  noise = jnp.sin(angle + at_start) * jnp.sin(since_start) / whole
  return Level(jnp.maximum(signal, _LEAST), noise)


def _linear(t: Time) -> Level:
  # The rates of the thousand steps of Ho et al., per unit of time.
  first_rate = 0.1
  last_rate = 20
  exponent = first_rate * t + (last_rate - first_rate) / 2 * jnp.square(t)
  return Level(jnp.exp(-exponent), -jnp.expm1(-exponent))


def _simple_linear(t: Time) -> Level:
  return Level(jnp.clip(1 - t, _LEAST, 1), t)


def _sigmoid(t: Time, start: float, end: float, tau: float) -> Level:
  first, last = 1 / (1 + np.exp(-np.array([start, end]) / tau))
  value = jax.nn.sigmoid((t * (end - start) + start) / tau)
  signal = (last - value) / (last - first)
  return Level.of(jnp.clip(signal, _LEAST, 1))


def _log(t: Time, start: float, end: float, is_reversed: float) -> Level:
  if is_reversed:
    start, end = end, start
  first, last = np.log([start, end])
  value = jnp.log(t * (end - start) + start)
  signal = (last - value) / (last - first)
  return Level.of(jnp.clip(signal, _LEAST, 1))


_SCHEDULES = {
    "cosine": _cosine,
    "improved_cosine": _improved_cosine,
    "linear": _linear,
    "simple_linear": _simple_linear,
}


def _is_part_of_cosine(start, end, tau) -> bool:
  return 0 <= start < end <= 1 and tau > 0


def _is_part_of_sigmoid(start, end, tau) -> bool:
  return start < end and tau > 0


def _is_part_of_log(start, end, is_reversed) -> bool:
  return 0 < start < end and is_reversed in (0, 1)


# Those with three numbers, and whether γ falls with such numbers.
_PARTS = {
    "cosine": (_cosine_part, _is_part_of_cosine),
    "sigmoid": (_sigmoid, _is_part_of_sigmoid),
    "log": (_log, _is_part_of_log),
}


# ── By name ─────────────────────────────────────────────────────────────────


class _Parsed(NamedTuple):
  """The function of a schedule, and its numbers behind the time."""
  function: Callable[..., Level]
  numbers: tuple[float, ...]


def _parse(schedule: str) -> _Parsed | None:
  """What a name stands for; None: nothing."""
  name, at_sign, text = schedule.partition("@")
  if not at_sign:
    function = _SCHEDULES.get(name)
    return function and _Parsed(function, ())
  numbers = _numbers(text)
  if name not in _PARTS or numbers is None:
    return None
  function, fits = _PARTS[name]
  if not fits(*numbers):
    return None
  return _Parsed(function, numbers)


def _numbers(text: str) -> tuple[float, float, float] | None:
  """Three numbers with commas between them; None: the text is no such thing."""
  parts = text.split(",")
  truths = {"True": 1.0, "False": 0.0}
  try:
    start, end = map(float, parts[:-1])
    last = parts[-1]
    third = truths[last] if last in truths else float(last)
  except ValueError:
    return None
  if not np.isfinite([start, end, third]).all():
    return None
  return start, end, third


def _is_schedule(value) -> bool:
  return isinstance(value, str) and _parse(value) is not None


SCHEDULE = fields.Check(
    f"one of {', '.join(_SCHEDULES)}, or a name with three numbers, as in "
    "cosine@0.2,1,1, sigmoid@-3,3,0.9 or log@1,10,False",
    _is_schedule, tuple(_SCHEDULES))


def level_at(t: Time, schedule: str) -> Level:
  """Signal and noise at a time.

  Args:
    t: float32 in [0, 1].
    schedule: one that SCHEDULE allows.

  Raises:
    ConfigError: another one.
  """
  parsed = _parse(schedule)
  if parsed is None:
    raise ConfigError(
        f"schedule = {schedule!r}; it must be {SCHEDULE.allowed}.")
  return parsed.function(t, *parsed.numbers)
