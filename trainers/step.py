"""One training step, made of what a family supplies.

B batch (global)

A batch may be computed in parts, one after the other
(`config.grad_accum_steps`). The loss of a part returns sums of what is learned
outside of the gradient, and random numbers are drawn with a key per example.
So the update is that of the whole batch to float rounding, however many parts
there are.
"""

import jax
import jax.numpy as jnp
import optax

from trainers.families.base import Family
from uvim.config import TrainConfig
from uvim.learn import optim, sharding
from uvim.learn.state import TrainState


def make_init(family: Family, config: TrainConfig, total_steps: int):
  """(init function rng → TrainState, optimizer, schedules)."""
  # Shapes are enough: the optimizer goes by the names of the parameters.
  any_key = jax.random.key(0)
  params, _ = jax.eval_shape(family.init, any_key)
  # In front of the config's schedules: the first pattern that matches counts.
  frozen_rules = [(pattern, None) for pattern in family.frozen_patterns()]
  tx, schedules = optim.make_optimizer(
      optax_name=config.optax_name,
      optax=config.optax,
      lr=config.lr,
      wd=config.wd,
      lr_mults=config.lr_mults,
      schedule=frozen_rules + optim.schedule_rules(config.schedule),
      grad_clip_norm=config.grad_clip_norm,
      params=params,
      total_steps=total_steps)

  def init(rng):
    init_rng, rng = jax.random.split(rng)
    # The same numbers as those of the raw key, and one trace for both.
    init_key = jax.random.wrap_key_data(init_rng)
    params, extra = family.init(init_key)
    return TrainState.create(params=params, tx=tx, extra=extra, rng=rng)

  return init, tx, schedules


def example_rngs(rng: jax.Array, batch_size: int) -> jax.Array:
  """A key for each row of the global batch.

  What a row draws depends on no other row, so not on the parts or devices that
  the batch is spread over.
  """
  def rng_of(row):
    return jax.random.fold_in(rng, row)

  rows_B = jnp.arange(batch_size)
  return jax.vmap(rng_of)(rows_B)


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
    step_rng = state.step_rng()
    example_rng, after_rng = jax.random.split(step_rng)
    any_array = next(iter(batch.values()))
    batch_size = len(any_array)
    rngs_B = example_rngs(example_rng, batch_size)
    (loss, report), grads = _value_and_grad(
        family, state, frozen, batch, rngs_B, param_shardings)

    new_state = state.apply_gradients(tx, grads)
    # What no gradient teaches, such as a codebook, learns from the stats.
    starts_epoch = state.step % epoch_steps == 0
    extra, after_logs = family.after_step(
        new_state.params, state.extra, report.stats, after_rng, starts_epoch)
    new_state = new_state.replace(extra=extra)

    logs = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
    logs |= report.logs | after_logs
    if family.config.skip_bad_steps:
      new_state, logs["bad"] = _undo_bad_step(state, new_state, logs)
    return new_state, logs

  return train_step


def _undo_bad_step(state, new_state, logs):
  """(the state to go on with, 1 if loss or gradient is not finite else 0)."""
  is_loss_finite = jnp.isfinite(logs["loss"])
  is_norm_finite = jnp.isfinite(logs["grad_norm"])
  is_bad = ~(is_loss_finite & is_norm_finite)

  def keep_old_if_bad(old, new):
    return jnp.where(is_bad, old, new)

  kept = jax.tree.map(keep_old_if_bad, state, new_state)
  # The step moves on: otherwise the same batch would come again, for ever.
  kept = kept.replace(step=new_state.step)
  return kept, is_bad.astype(jnp.int32)


def _value_and_grad(family, state, frozen, batch, rngs_B, param_shardings):
  """((loss, report), gradients) of a batch, computed in the config's parts."""
  compute_part = _make_compute_part(family, param_shardings)
  fixed = (state.params, state.extra, state.step, frozen)
  num_parts = family.config.grad_accum_steps
  if num_parts == 1:
    return compute_part(*fixed, batch, rngs_B)

  # Row r is in part r mod n: every device computes its own rows of each part.
  def split_rows(x):
    row_shape = x.shape[1:]
    return x.reshape(-1, num_parts, *row_shape)

  rows = jax.tree.map(split_rows, (batch, rngs_B))

  def compute_part_at(index):
    def take_part(x):
      return jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False)

    part, part_rngs = jax.tree.map(take_part, rows)
    return compute_part(*fixed, part, part_rngs)

  total = _sum_of_parts(compute_part_at, num_parts)
  return _mean_of_parts(total, num_parts)


def _make_compute_part(family, param_shardings):
  """The function that gives ((loss, report), gradients) of one part."""
  # Jitted: the scan over parts asks for its shapes, which then cost no second
  # trace.
  @jax.jit
  def compute_part(params, extra, step, frozen, batch, rngs_B):
    if param_shardings is not None:
      # Parameters are whole for as long as they are used. Left split along the
      # batch's axis, XLA may spread a product over it and gather the batch.
      whole = sharding.without_axis(param_shardings, sharding.DATA_AXIS)
      params = jax.lax.with_sharding_constraint(params, whole)
    value_and_grad = jax.value_and_grad(family.loss, has_aux=True)
    value, grads = value_and_grad(params, extra, frozen, batch, rngs_B, step)
    if param_shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, param_shardings)
    return value, grads

  return compute_part


def _sum_of_parts(compute_part_at, num_parts):
  """The sum over parts of the tree that `compute_part_at(index)` gives."""
  def add_part(total, index):
    part = compute_part_at(index)
    total = jax.tree.map(jnp.add, total, part)
    return total, None

  def zeros_of(shape):
    return jnp.zeros(shape.shape, shape.dtype)

  # The scan needs a first total, and only the loss knows what its tree is.
  shapes = jax.eval_shape(compute_part_at, 0)
  zeros = jax.tree.map(zeros_of, shapes)
  # A scan and no loop of Python: one part after the other is in memory.
  indices = jnp.arange(num_parts)
  total, _ = jax.lax.scan(add_part, zeros, indices)
  return total


def _mean_of_parts(total, num_parts):
  """((loss, report), gradients) of the whole batch from the sums of parts."""
  (loss, report), grads = total

  def mean_of(x):
    return x / num_parts

  # Losses, logs and gradients are means over examples; stats are sums.
  sums = (loss, report.logs, grads)
  loss, logs, grads = jax.tree.map(mean_of, sums)
  report = report.replace(logs=logs)
  return (loss, report), grads
