"""One training step, made of what a family supplies.

B batch (global)

A batch may be computed in parts, one after the other
(`config.grad_accum_steps`). The loss of a part returns sums of what is learned
outside of the gradient, and random numbers are drawn with a key per example.
So the update is that of the whole batch to float rounding, however many parts
there are.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from trainers.family import Family
from uvim.config import TrainConfig
from uvim.learn import optim, sharding
from uvim.learn.state import TrainState


def make_init(family: Family, config: TrainConfig, total_steps: int):
  """(init function rng → TrainState, optimizer, schedules)."""
  params, _ = jax.eval_shape(family.init, jax.random.key(0))
  tx, schedules = optim.make_optimizer(
      optax_name=config.optax_name, optax=config.optax, lr=config.lr,
      wd=config.wd, lr_mults=config.lr_mults, schedule=config.schedule,
      grad_clip_norm=config.grad_clip_norm, params=params,
      total_steps=total_steps)

  def init(rng):
    init_rng, rng = jax.random.split(rng)
    # The same numbers as those of the raw key, and one trace for both.
    params, extra = family.init(jax.random.wrap_key_data(init_rng))
    return TrainState.create(params=params, tx=tx, extra=extra, rng=rng)

  return init, tx, schedules


def example_rngs(rng: jax.Array, batch_size: int) -> jax.Array:
  """A key for each row of the global batch.

  What a row draws depends on no other row, so not on the parts or devices that
  the batch is spread over.
  """
  fold_in = functools.partial(jax.random.fold_in, rng)
  return jax.vmap(fold_in)(jnp.arange(batch_size))


def make_train_step(family: Family, tx: optax.GradientTransformation, *,
                    epoch_steps: int, shardings=None):
  """The function (state, frozen, batch) → (state, logs), to be jitted.

  Args:
    family: what is trained. Its config says in how many parts a batch is
      computed, and whether a step that is not finite is skipped: `logs["bad"]`
      is then 1, and nothing of the state changes but the step.
    tx: the optimizer.
    epoch_steps: steps of an epoch; families count some things anew each epoch.
    shardings: of the state. The gradients are given those of their parameters,
      so that no device ever holds the whole of one that is split.
  """
  param_shardings = None if shardings is None else shardings.params

  def train_step(state: TrainState, frozen, batch):
    example_rng, after_rng = jax.random.split(state.step_rng())
    batch_size = len(next(iter(batch.values())))
    rngs_B = example_rngs(example_rng, batch_size)
    (loss, report), grads = _value_and_grad(
        family, state, frozen, batch, rngs_B, param_shardings)

    new_state = state.apply_gradients(tx, grads)
    extra, after_logs = family.after_step(
        new_state.params, state.extra, report.stats, after_rng,
        state.step % epoch_steps == 0)
    new_state = new_state.replace(extra=extra)

    logs = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    logs |= report.logs | after_logs
    if family.config.skip_bad_steps:
      new_state, logs["bad"] = _undo_bad_step(state, new_state, logs)
    return new_state, logs

  return train_step


def _undo_bad_step(state, new_state, logs):
  """(the state to go on with, 1 if loss or gradient is not finite else 0)."""
  is_bad = ~(jnp.isfinite(logs["loss"]) & jnp.isfinite(logs["grad_norm"]))
  kept = jax.tree.map(functools.partial(jnp.where, is_bad), state, new_state)
  return kept.replace(step=new_state.step), is_bad.astype(jnp.int32)


def _value_and_grad(family, state, frozen, batch, rngs_B, param_shardings):
  """((loss, report), gradients) of a batch, computed in the config's parts."""
  num_parts = family.config.grad_accum_steps

  # Jitted: the scan below asks for its shapes, which then cost no second trace.
  @jax.jit
  def compute_part(params, extra, step, frozen, batch, rngs_B):
    if param_shardings is not None:
      # Parameters are whole for as long as they are used. Left split along the
      # batch's axis, XLA may spread a product over it and gather the batch.
      params = jax.lax.with_sharding_constraint(
          params, sharding.without_axis(param_shardings, sharding.DATA_AXIS))
    value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
    value, grads = value_and_grad(params, extra, frozen, batch, rngs_B, step)
    if param_shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, param_shardings)
    return value, grads

  fixed = state.params, state.extra, state.step, frozen
  if num_parts == 1:
    return compute_part(*fixed, batch, rngs_B)

  # Row r is in part r mod n: every device computes its own rows of each part.
  def split_rows(x):
    return x.reshape(-1, num_parts, *x.shape[1:])

  rows = jax.tree.map(split_rows, (batch, rngs_B))

  def part_at(i):
    def take(x):
      return jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
    return jax.tree.map(take, rows)

  def add_part(total, i):
    return jax.tree.map(jnp.add, total, compute_part(*fixed, *part_at(i))), None

  shapes = jax.eval_shape(compute_part, *fixed, *part_at(0))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add_part, zeros, jnp.arange(num_parts))

  # Losses, logs and gradients are means over examples; stats are sums.
  (loss, report), grads = total
  loss, logs, grads = jax.tree.map(
      lambda x: x / num_parts, (loss, report.logs, grads))
  return (loss, report.replace(logs=logs)), grads
