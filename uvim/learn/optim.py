"""The optimizer: Adafactor as UViM used it, schedules, multipliers, decay.

One update of a parameter p with gradient g is

  u = scale(clip(g))                         clip: global norm, before all else
  p = p − s(t) · (lr · lr_mult · u + wd · p)   wd on kernels only

so weight decay follows the schedule s but neither lr nor lr_mults (the
released implementation; uvim's paper, Appendix D for the settings).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as optax_lib

from uvim import registry
from uvim import tree as tree_lib
from uvim.typing import PyTree

ScheduleFn = Callable[[Any], jax.Array]
Rules = Sequence[tuple[str, Any]]


def _ema(
    momentum: float, dtype: jnp.dtype
) -> optax_lib.GradientTransformation:
  """optax.ema without bias correction, stored as `dtype`, computed in f32.

  optax multiplies in `dtype`: whether the product is rounded then depends on
  what XLA fuses, one bf16 ulp of difference between eager, jit and meshes. The
  fixtures hold what jit gives: a rounded factor and an unrounded product.
  """
  # numpy, because the optimizer may be built while jax is tracing.
  factor = float(np.asarray(momentum, dtype))

  def update(updates, state, params=None):
    del params
    new = jax.tree.map(
        lambda u, m: (1 - momentum) * u + factor * m.astype(u.dtype),
        updates, state.ema)
    ema = jax.tree.map(lambda m: m.astype(dtype), new)
    return new, optax_lib.EmaState(state.count + 1, ema)

  init = optax_lib.ema(momentum, accumulator_dtype=dtype).init
  return optax_lib.GradientTransformation(init, update)


def _factored_rms(
    *,
    min_dim_size_to_factor: int,
    decay_fn: Callable[[jax.Array], jax.Array],
    eps: float,
) -> optax_lib.GradientTransformation:
  """optax.scale_by_factored_rms, with its state, but for `_mean`."""
  init = optax_lib.scale_by_factored_rms(
      min_dim_size_to_factor=min_dim_size_to_factor).init

  def update(updates, state, params=None):
    del params
    decay = decay_fn(state.count)

    def average(old, new):
      return (decay * old + (1 - decay) * new).astype(old.dtype)

    def leaf(g, v_row, v_col, v):
      square = jnp.square(g) + eps
      *_, small, large = [0, 0, *np.argsort(g.shape)]  # The largest two axes.
      if g.ndim < 2 or g.shape[small] < min_dim_size_to_factor:
        v = average(v, square)
        return g * v**-0.5, v_row, v_col, v
      v_row = average(v_row, _mean(square, large))
      v_col = average(v_col, _mean(square, small))
      axis = small - (small > large)
      row = (v_row / jnp.mean(v_row, axis, keepdims=True))**-0.5
      u = g * jnp.expand_dims(row, large) * jnp.expand_dims(v_col**-0.5, small)
      return u, v_row, v_col, v

    leaves, treedef = jax.tree.flatten(updates)
    moments = map(treedef.flatten_up_to, (state.v_row, state.v_col, state.v))
    out = [leaf(*args) for args in zip(leaves, *moments, strict=True)]
    u, *moments = (treedef.unflatten([x[i] for x in out]) for i in range(4))
    count = optax_lib.safe_increment(state.count)
    return u, optax_lib.FactoredState(count, *moments)

  return optax_lib.GradientTransformation(init, update)


def _mean(x: jax.Array, axis: int) -> jax.Array:
  """jnp.mean(x, axis); on a CPU, of a large array, by a product with ones.

  XLA takes the mean over a leading axis column by column, each with all of the
  array between two numbers: once it is larger than the caches that was a tenth
  of stage I's step. The product reads it row by row, 15 times as fast.
  """
  large = x.size > 2**20 and axis < x.ndim - 1
  if not large or jax.default_backend() != "cpu":
    return jnp.mean(x, axis)
  before = tuple(range(axis))  # Axes that both sides have, so as not to turn x.
  ones = jnp.ones(x.shape[:axis + 1], x.dtype)
  total = jax.lax.dot_general(ones, x, (((axis,), (axis,)), (before, before)))
  return total / x.shape[axis]


def scale_by_adafactor(
    *,
    min_dim_size_to_factor: int = 32,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    beta2_cap: float = 0.999,
    clipping_threshold: float | None = None,
    momentum: float | None = 0.9,
    dtype_momentum: str = "bfloat16",
    eps: float = 1e-30,
) -> optax_lib.GradientTransformation:
  """Adafactor without relative steps (Zhai et al., "Scaling ViTs", sec. 3.5).

  The second moment's decay at update t = 1, 2, … is min(beta2_cap,
  1 − t^−decay_rate): uncapped it tends to 1 and late gradients stop counting.
  The first moment is kept in half precision and not bias-corrected.
  """

  def decay_at(step):
    t = jnp.asarray(step - decay_offset + 1, jnp.float32)
    return jnp.minimum(beta2_cap, 1.0 - t**-decay_rate)

  parts = [_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor,
                         decay_fn=decay_at, eps=eps)]
  if clipping_threshold:
    parts.append(optax_lib.clip_by_block_rms(clipping_threshold))
  if momentum:
    parts.append(_ema(momentum, jnp.dtype(dtype_momentum)))
  return optax_lib.chain(*parts)


SCALERS = {
    "scale_by_adafactor": scale_by_adafactor,
    "big_vision.scale_by_adafactor": scale_by_adafactor,
    "scale_by_adam": optax_lib.scale_by_adam,
}


# Decays. Each takes its own options and returns a function of (progress in
# [0, 1], steps since the end of the warm-up, step) that is 1 at the top.


def _cosine():
  return lambda progress, since, step: 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _linear(*, end=None, linear_end=0.0, power=1):
  end = linear_end if end is None else end
  return lambda progress, since, step: end + (1 - end) * (1 - progress)**power


def _rsqrt(*, timescale=10_000, shift=0):
  return lambda progress, since, step: (
      1 + (jnp.maximum(since, 0) + shift) / timescale)**-0.5


def _stair(*, steps=(), mults=()):
  if len(steps) != len(mults) or list(steps) != sorted(steps):
    raise registry.ConfigError(
        "config.schedule: steps must rise and have one of mults each; got "
        f"steps={list(steps)}, mults={list(mults)}.")
  values = np.array([1.0, *mults], np.float32)
  # From its step on a value holds, hence the count of steps that are <= step.
  return lambda progress, since, step: jnp.asarray(values)[
      sum((jnp.asarray(step >= s, jnp.int32) for s in steps), 0)]


DECAYS = {
    "cosine": _cosine,
    "linear": _linear,
    "polynomial": _linear,
    "rsqrt": _rsqrt,
    "stair": _stair,
}


def _call(fn: Callable, kwargs: Mapping[str, Any], field: str):
  """`fn(**kwargs)`; an unknown or missing argument names the config field."""
  parameters = inspect.signature(fn).parameters
  for name in kwargs:
    if name not in parameters:
      raise registry.unknown(f"key of {field}", name, parameters)
  return fn(**kwargs)


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
  make_decay = registry.lookup(DECAYS, decay_type, "config.schedule.decay_type")
  decay_fn = _call(make_decay, decay, "config.schedule")
  for name, value in [("warmup_steps", warmup_steps),
                      ("cooldown_steps", cooldown_steps)]:
    if not 0 <= value < total_steps:
      raise registry.ConfigError(
          f"config.schedule.{name} = {value}, but the run has {total_steps} "
          f"steps: it must be at least 0 and less than that.")

  def schedule(step):
    since = step - warmup_steps
    progress = jnp.clip(since / (total_steps - warmup_steps), 0.0, 1.0)
    value = decay_fn(progress, since, step)
    if warmup_steps:
      value = value * jnp.minimum(1.0, step / warmup_steps)
    if cooldown_steps:
      value = value * jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
    return jnp.asarray(value, jnp.float32)

  return schedule


def _match(names: Sequence[str], rules: Rules, field: str) -> list[int]:
  return tree_lib.first_match(names, [p for p, _ in rules], what=field)


def _resolve_schedules(names: Sequence[str], schedule: Any, total_steps: int):
  """Schedule functions, and for each name its function (None = frozen)."""
  if schedule is None or isinstance(schedule, Mapping):
    schedule = [(".*", schedule)]
  fns = [
      None if s is None else make_schedule(**{**s, "total_steps": total_steps})
      for _, s in schedule
  ]
  indices = _match(names, schedule, "config.schedule")
  missed = [n for n, i in zip(names, indices, strict=True) if i < 0]
  if missed:
    raise registry.ConfigError(
        f"config.schedule covers no pattern for {missed[0]!r} and "
        f"{len(missed) - 1} more; end it with ('.*', …), None to freeze.")
  return [f for f in fns if f is not None], [fns[i] for i in indices]


def _resolve_mults(names: Sequence[str], lr_mults: Rules) -> list[float]:
  for pattern, mult in lr_mults:
    if not mult > 0:
      raise registry.ConfigError(
          f"config.lr_mults: {pattern!r} has {mult}, must be > 0. To freeze "
          "parameters give them the schedule None.")
  indices = _match(names, lr_mults, "config.lr_mults")
  return [lr_mults[i][1] if i >= 0 else 1.0 for i in indices]


def _take_step(
    scales: Sequence[float],
    decays: Sequence[float],
    schedules: Sequence[ScheduleFn | None],
) -> optax_lib.GradientTransformation:
  """−s(t) · (scale · u + decay · p) for each leaf; 0 where s is None."""

  def update(updates, state, params):
    u_leaves, treedef = jax.tree.flatten(updates)
    p_leaves = treedef.flatten_up_to(params)
    # Each schedule is evaluated once, not once per leaf.
    now = {fn: fn(state.count) for fn in set(schedules) - {None}}

    def leaf(u, p, scale, decay, fn):
      if fn is None:
        return jnp.zeros_like(p)
      step = scale * u + decay * p if decay else scale * u
      return (-now[fn] * step).astype(p.dtype)

    new = map(leaf, u_leaves, p_leaves, scales, decays, schedules)
    count = optax_lib.safe_increment(state.count)
    return treedef.unflatten(new), optax_lib.ScaleByScheduleState(count)

  def init(params):
    del params
    return optax_lib.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  return optax_lib.GradientTransformation(init, update)


def make_optimizer(
    *,
    optax_name: str,
    optax: Mapping[str, Any] | None = None,
    lr: float,
    wd: float = 0.0,
    lr_mults: Rules | None = None,
    schedule: Any,
    grad_clip_norm: float | None = None,
    params: PyTree,
    total_steps: int,
) -> tuple[optax_lib.GradientTransformation, list[ScheduleFn]]:
  """The optimizer of a run; the arguments are config fields of the same name.

  Args:
    optax_name: a key of SCALERS.
    optax: its options.
    lr: the peak step size.
    wd: weight decay of leaves named 'kernel', relative to the schedule's 1.
    lr_mults: (pattern, multiplier) pairs; first match wins, else 1.
    schedule: options of `make_schedule`, or (pattern, options) pairs that
      cover every parameter. None freezes: no update, no state, no share in
      the gradient's norm.
    grad_clip_norm: the largest global norm of the gradient; None = no limit.
    params: the parameters, or their shapes; only names are used.
    total_steps: the length of the run.

  Returns:
    The transformation (needs params in `update`), and the schedule functions
    in config order, frozen ones left out.

  Raises:
    ConfigError: see the fields' own rules.
  """
  names = tree_lib.leaf_names(params)
  fns, fn_of = _resolve_schedules(names, schedule, total_steps)
  make_scaler = registry.lookup(SCALERS, optax_name, "config.optax_name")
  scaler = _call(make_scaler, optax or {}, "config.optax")
  if grad_clip_norm:
    clip = optax_lib.clip_by_global_norm(grad_clip_norm)
    scaler = optax_lib.chain(clip, scaler)
  if None in fn_of:
    free = [fn is not None for fn in fn_of]
    scaler = optax_lib.masked(
        scaler, jax.tree.unflatten(jax.tree.structure(params), free))
  scales = [lr * mult for mult in _resolve_mults(names, lr_mults or ())]
  decays = [wd if name.endswith("/kernel") else 0.0 for name in names]
  return optax_lib.chain(scaler, _take_step(scales, decays, fn_of)), fns
