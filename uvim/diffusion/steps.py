"""How noise is added, and how one step of sampling takes some of it away.

B batch · T steps · n bits · *n axes of an array of bits, such as [B, H, W, n]

Noise has variance 1, whatever the scale b of the bits is: b alone decides at
which time a bit can still be read. With x_t = √γ · x_0 + √(1 - γ) · ε, a
network that sees x_t gives x_0 or ε, from which the other follows. A step goes
to a time with less noise:

  ddim  the same x_0 with less of the same ε: nothing is random
  ddpm  the mean of what may have been there, and new noise

Sources: Song et al. 2021, "Denoising Diffusion Implicit Models"; Ho et al.
2020, "Denoising Diffusion Probabilistic Models".
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.diffusion.schedules import Level
from uvim.registry import lookup
from uvim.typing import Array, Float

Noisy = Float[Array, "*n"]

# Divisors are at least that: a level may be all signal or all noise.
_LEAST = 1e-9


class Split(NamedTuple):
  """What a noisy array is taken for.

  Attributes:
    clean: x_0.
    noise: ε.
  """
  clean: Noisy
  noise: Noisy


class Times(NamedTuple):
  """The times of a sampling; float32 [T], falling.

  Attributes:
    now: what the network is told.
    next: where each step leads to.
  """
  now: np.ndarray
  next: np.ndarray


def times(num_steps: int, time_difference: float = 0.0) -> Times:
  """Evenly spaced times from 1 down, and those that the steps lead to.

  Args:
    num_steps: T ≥ 1.
    time_difference: by how many steps a step leads further than to the time
      that the network is told next. The array then has less noise than the
      network believes.
  """
  done = np.arange(num_steps)
  now = 1 - done / num_steps
  after = 1 - (done + 1 + time_difference) / num_steps
  return Times(np.float32(now), np.float32(np.maximum(after, 0)))


def corrupt(clean: Noisy, noise: Noisy, level: Level) -> Noisy:
  """x_t of x_0 and ε."""
  return jnp.sqrt(level.signal) * clean + jnp.sqrt(level.noise) * noise


def split_by_clean(noisy: Noisy, clean: Noisy, level: Level) -> Split:
  """x_0 and the noise that is left if it is this one."""
  noise = noisy - jnp.sqrt(level.signal) * clean
  return Split(clean, noise / _root(level.noise))


def clean_of_noise(noisy: Noisy, noise: Noisy, level: Level) -> Noisy:
  """x_0 if the noise is this one."""
  return (noisy - jnp.sqrt(level.noise) * noise) / _root(level.signal)


def velocity(clean: Noisy, noise: Noisy, level: Level) -> Noisy:
  """√γ · ε - √(1 - γ) · x_0, the "v" of Salimans & Ho 2022."""
  return jnp.sqrt(level.signal) * noise - jnp.sqrt(level.noise) * clean


def clean_of_velocity(noisy: Noisy, velocity: Noisy, level: Level) -> Noisy:
  """x_0 if the velocity is this one."""
  return jnp.sqrt(level.signal) * noisy - jnp.sqrt(level.noise) * velocity


def _root(variance):
  return jnp.sqrt(jnp.maximum(variance, _LEAST))


# ── Steps ───────────────────────────────────────────────────────────────────


def ddim_step(split: Split, after: Level) -> Noisy:
  """x of the level `after`."""
  return corrupt(split.clean, split.noise, after)


def ddpm_step(
    noisy: Noisy,
    split: Split,
    now: Level,
    after: Level,
    new_noise: Noisy,
    variance: str = "large",
) -> Noisy:
  """x of the level `after`, one of those that are possible.

  Args:
    noisy: x of the level `now`.
    split: of it.
    now: more noise than `after`.
    after: less noise.
    new_noise: drawn from N(0, 1).
    variance: of the new noise: "large" or "small", the bounds of Ho et al.
  """
  # How much of the signal's variance one step of noise leaves.
  kept = jnp.clip(now.signal / after.signal, _LEAST, 1)
  # 1 - kept. Where both levels have little noise, that would be 0.
  lost = jnp.clip((now.noise - after.noise) / after.signal, 0, 1)
  mean = noisy - lost / _root(now.noise) * split.noise
  mean = mean / jnp.sqrt(kept)
  if variance == "small":
    lost = lost * after.noise / jnp.maximum(now.noise, _LEAST)
  return mean + jnp.sqrt(lost) * new_noise


# Name of a sampler → the variance of its new noise; None: it adds none.
_VARIANCES = {"ddim": None, "ddpm": "large", "ddpm_small": "small"}
SAMPLER = fields.one_of(_VARIANCES)


def step(
    noisy: Noisy,
    split: Split,
    now: Level,
    after: Level,
    new_noise: Noisy | None,
    sampler: str,
) -> Noisy:
  """x of the level `after`.

  Args:
    noisy: x of the level `now`.
    split: of it.
    now: more noise than `after`.
    after: less noise.
    new_noise: drawn from N(0, 1); None where `needs_noise` says so.
    sampler: one that SAMPLER allows.
  """
  variance = _VARIANCES[sampler]
  if variance is None:
    return ddim_step(split, after)
  return ddpm_step(noisy, split, now, after, new_noise, variance)


def needs_noise(sampler: str) -> bool:
  """Whether the steps of a sampler add noise.

  Raises:
    ConfigError: another name than SAMPLER allows.
  """
  return lookup(_VARIANCES, sampler, "sampler") is not None
