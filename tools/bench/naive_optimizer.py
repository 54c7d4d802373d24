"""Adafactor from optax's own parts: the naive side of an optimizer step.

It computes what `uvim.learn.optim.scale_by_adafactor` computes. Only the means
of squared gradients are taken as optax takes them, and the first moment is
rounded where optax rounds it.
"""

import jax.numpy as jnp
import optax

from uvim.config import TrainConfig
from uvim.learn import optim
from uvim.typing import PyTree


def scale_by_adafactor(
    *, beta2_cap: float = 0.999) -> optax.GradientTransformation:
  """Adafactor without relative steps; `beta2_cap` bounds the decay."""

  def decay_at(step, decay_rate):
    # optax counts the updates from 0.
    update_number = jnp.asarray(step + 1, jnp.float32)
    return jnp.minimum(beta2_cap, 1.0 - update_number**-decay_rate)

  rms = optax.scale_by_factored_rms(
      min_dim_size_to_factor=32, decay_rate_fn=decay_at)
  # The first moment in half precision, not bias-corrected.
  momentum = optax.ema(0.9, debias=False, accumulator_dtype=jnp.bfloat16)
  return optax.chain(rms, momentum)


def make_optimizer(config: TrainConfig,
                   params: PyTree) -> optax.GradientTransformation:
  """The optimizer of a run, with the Adafactor of this file.

  Args:
    config: of the run.
    params: the parameters, or their shapes.
  """
  # All but the scaler is ours: clipping, schedule, weight decay.
  tx, _ = optim.make_optimizer(
      optax_name="scale_by_adafactor", optax=config.optax, lr=config.lr,
      wd=config.wd, lr_mults=config.lr_mults, schedule=config.schedule,
      grad_clip_norm=config.grad_clip_norm, params=params,
      total_steps=config.total_steps,
      scalers={"scale_by_adafactor": scale_by_adafactor})
  return tx
