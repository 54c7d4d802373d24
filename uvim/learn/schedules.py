"""Schedules of the learning rate, as UViM's configs name them.

Each decay takes its own options and returns a function of (progress in [0, 1],
steps since the end of the warm-up, step) that is 1 at the top.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields
from uvim.registry import ConfigError, lookup

ScheduleFn = Callable[[Any], jax.Array]


def _cosine():
  def decay_fn(progress, since, step):
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))

  return decay_fn


def _linear(*, end=None, linear_end=0.0, power=1):
  # `linear_end` is the name in the released configs; `end` has priority.
  if end is None:
    end = linear_end

  def decay_fn(progress, since, step):
    return end + (1 - end) * (1 - progress)**power

  return decay_fn


def _rsqrt(*, timescale=10_000, shift=0):
  def decay_fn(progress, since, step):
    # Negative during the warm-up. Far enough below 0, the root would be NaN.
    since = jnp.maximum(since, 0)
    return (1 + (since + shift) / timescale)**-0.5

  return decay_fn


def _stair(*, steps=(), mults=()):
  if len(steps) != len(mults) or list(steps) != sorted(steps):
    raise ConfigError(
        "config.schedule: steps must rise and have one of mults each; got "
        f"steps={list(steps)}, mults={list(mults)}."
    )
  values = np.array([1.0, *mults], np.float32)

  def decay_fn(progress, since, step):
    # A value holds from its own step on, so this counts up to its index.
    num_reached = 0
    for start in steps:
      num_reached += jnp.asarray(step >= start, jnp.int32)
    return jnp.asarray(values)[num_reached]

  return decay_fn


DECAYS = {
    "cosine": _cosine,
    "linear": _linear,
    "polynomial": _linear,
    "rsqrt": _rsqrt,
    "stair": _stair,
}


def make_schedule(
    *,
    total_steps: int,
    decay_type: str = "stair",
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    **decay: Any,
) -> ScheduleFn:
  """A function from the step (0, 1, …) to the multiplier of the step size.

  Args:
    total_steps: the step at which the decay ends.
    decay_type: 'cosine' | 'linear' or 'polynomial' (end, power) | 'rsqrt'
      (timescale, shift) | 'stair' (steps, mults); 'stair' alone is constant.
    warmup_steps: steps of the linear rise from 0.
    cooldown_steps: steps of the linear fall to 0 at the end.
    **decay: options of the decay.

  Raises:
    ConfigError: unknown names, or a warm-up that does not end before the run.
  """
  make_decay = lookup(DECAYS, decay_type, "config.schedule.decay_type")
  fields.check_fields(fields.options_of(make_decay), decay, "config.schedule")
  decay_fn = make_decay(**decay)
  _check_period("warmup_steps", warmup_steps, total_steps)
  _check_period("cooldown_steps", cooldown_steps, total_steps)

  def schedule(step):
    since = step - warmup_steps
    # Stays 0 during the warm-up: the decay starts only after it.
    progress = jnp.clip(since / (total_steps - warmup_steps), 0.0, 1.0)
    value = decay_fn(progress, since, step)
    if warmup_steps:
      # Exactly 0 at step 0: the first update moves no parameter.
      value = value * jnp.minimum(1.0, step / warmup_steps)
    if cooldown_steps:
      steps_left = total_steps - step
      value = value * jnp.clip(steps_left / cooldown_steps, 0.0, 1.0)
    return jnp.asarray(value, jnp.float32)

  return schedule


def _check_period(name: str, steps: int, total_steps: int) -> None:
  if not 0 <= steps < total_steps:
    raise ConfigError(
        f"config.schedule.{name} = {steps}, but the run has {total_steps} "
        "steps: it must be at least 0 and less than that."
    )
