"""The optimizer: Adafactor as UViM used it, schedules, multipliers, decay.

One update of a parameter p with gradient g is

  u = scale(clip(g))                         clip: global norm, before all else
  p = p − s(t) · (lr · lr_mult · u + wd · p)   wd on kernels only

So weight decay follows the schedule s but neither lr nor lr_mults, as in the
released implementation. Appendix D of UViM's paper has the settings.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax as optax_lib

from uvim import fields, tree
from uvim.learn.schedules import ScheduleFn, make_schedule
from uvim.registry import ConfigError, lookup
from uvim.typing import PyTree

Rules = Sequence[tuple[str, Any]]

# Arrays above this many elements no longer fit into a CPU's caches.
LARGE = 2**20


# ── Adafactor ───────────────────────────────────────────────────────────────


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
  1 − t^−decay_rate). Without the cap it tends to 1, and late gradients stop
  counting. The first moment is kept in half precision and not bias-corrected.
  """

  def decay_at(step):
    update_number = jnp.asarray(step - decay_offset + 1, jnp.float32)
    return jnp.minimum(beta2_cap, 1.0 - update_number**-decay_rate)

  rms = scale_by_factored_rms(
      min_dim_size_to_factor=min_dim_size_to_factor, decay_fn=decay_at, eps=eps
  )
  transformations = [rms]
  if clipping_threshold:
    clip = optax_lib.clip_by_block_rms(clipping_threshold)
    transformations.append(clip)
  if momentum:
    transformations.append(_ema(momentum, jnp.dtype(dtype_momentum)))
  return optax_lib.chain(*transformations)


def scale_by_factored_rms(
    *,
    min_dim_size_to_factor: int,
    decay_fn: Callable[[jax.Array], jax.Array],
    eps: float,
) -> optax_lib.GradientTransformation:
  """Divides gradients by the root of their factored second moment.

  `optax.scale_by_factored_rms` computes the same numbers and has the same
  state. But its mean over one axis takes a tenth of a step on a CPU. This
  function exists only to replace that mean; see `_mean`.

  Args:
    min_dim_size_to_factor: a gradient is factored if its two largest
      dimensions are at least this size.
    decay_fn: from the number of updates made to the decay of the moments.
    eps: added to the squared gradient.
  """
  optax_twin = optax_lib.scale_by_factored_rms(
      min_dim_size_to_factor=min_dim_size_to_factor
  )

  def update(updates, state, params=None):
    del params
    scale_leaf = functools.partial(
        _scale_leaf,
        decay=decay_fn(state.count),
        min_size=min_dim_size_to_factor,
        eps=eps,
    )
    scaled = jax.tree.map(
        scale_leaf, updates, state.v_row, state.v_col, state.v
    )
    new_state = optax_lib.FactoredState(
        count=optax_lib.safe_increment(state.count),
        v_row=jax.tree.map(lambda leaf: leaf.v_row, scaled),
        v_col=jax.tree.map(lambda leaf: leaf.v_col, scaled),
        v=jax.tree.map(lambda leaf: leaf.v, scaled),
    )
    return jax.tree.map(lambda leaf: leaf.grad, scaled), new_state

  return optax_lib.GradientTransformation(optax_twin.init, update)


@dataclasses.dataclass(frozen=True)
class _ScaledLeaf:
  """A scaled gradient with its new moments; to jax.tree.map a single leaf."""
  grad: jax.Array
  v_row: jax.Array
  v_col: jax.Array
  v: jax.Array


def _scale_leaf(grad, v_row, v_col, v, *, decay, min_size, eps):
  """One gradient; `v_row` and `v_col` are its factors, or `v` is the whole."""

  def average(old, new):
    return (decay * old + (1 - decay) * new).astype(old.dtype)

  # Without eps, a gradient of 0 would be divided by 0 below.
  square = jnp.square(grad) + eps
  axes = _factored_axes(grad.shape, min_size)
  if axes is None:
    v = average(v, square)
    return _ScaledLeaf(grad * v**-0.5, v_row, v_col, v)
  smaller, larger = axes
  v_row = average(v_row, _mean(square, larger))
  v_col = average(v_col, _mean(square, smaller))
  scaled = _divide_by_root(grad, v_row, v_col, smaller, larger)
  return _ScaledLeaf(scaled, v_row, v_col, v)


def _factored_axes(
    shape: Sequence[int], min_size: int
) -> tuple[int, int] | None:
  """(second largest axis, largest axis); None: do not factor."""
  if len(shape) < 2:
    return None
  # In rising order, the two largest axes come last.
  *_, smaller, larger = np.argsort(shape)
  if shape[smaller] < min_size:
    return None
  return smaller, larger


def _divide_by_root(grad, v_row, v_col, smaller, larger):
  """The gradient over the root of the moment that its two factors stand for.

  `larger` is the largest axis of the gradient, `smaller` the second largest.
  `v_row` is the moment averaged over `larger`, `v_col` over `smaller`.
  """
  # v_row has lost the axis `larger`; those behind it moved up by one.
  smaller_in_row = smaller
  if smaller > larger:
    smaller_in_row = smaller - 1
  # The moment is v_row * v_col / v_mean. Divide by the root of each part.
  v_mean = jnp.mean(v_row, smaller_in_row, keepdims=True)
  row_scale = (v_row / v_mean)**-0.5
  scaled = grad * jnp.expand_dims(row_scale, larger)
  col_scale = v_col**-0.5
  return scaled * jnp.expand_dims(col_scale, smaller)


def _mean(x: jax.Array, axis: int) -> jax.Array:
  """jnp.mean(x, axis); on a CPU, of a large array, by a product with ones.

  XLA takes the mean over a leading axis column by column, with a stride that
  misses the caches: a tenth of stage I's step. The product reads row by row and
  is 15 times as fast.
  """
  is_last_axis = axis == x.ndim - 1
  if x.size <= LARGE or is_last_axis or jax.default_backend() != "cpu":
    return jnp.mean(x, axis)
  # The axes before are batch axes of the product, so that x is not transposed.
  batch_axes = tuple(range(axis))
  ones = jnp.ones(x.shape[:axis + 1], x.dtype)
  dimension_numbers = (((axis,), (axis,)), (batch_axes, batch_axes))
  total = jax.lax.dot_general(ones, x, dimension_numbers)
  return total / x.shape[axis]


def _ema(
    momentum: float, dtype: jnp.dtype
) -> optax_lib.GradientTransformation:
  """optax.ema without bias correction, stored as `dtype`, computed in f32.

  optax multiplies in `dtype`, and XLA's fusion decides whether to round the
  product: eager code, jit and meshes differ by one bf16 ulp. This function does
  as jit does. It rounds the factor, but not the product.
  """
  # numpy, because the optimizer may be built while jax is tracing.
  factor = float(np.asarray(momentum, dtype))

  def average(new, old):
    return (1 - momentum) * new + factor * old.astype(new.dtype)

  def update(updates, state, params=None):
    del params
    averages = jax.tree.map(average, updates, state.ema)
    stored = jax.tree.map(lambda x: x.astype(dtype), averages)
    return averages, optax_lib.EmaState(state.count + 1, stored)

  optax_twin = optax_lib.ema(momentum, accumulator_dtype=dtype)
  return optax_lib.GradientTransformation(optax_twin.init, update)


SCALERS = {
    "scale_by_adafactor": scale_by_adafactor,
    "big_vision.scale_by_adafactor": scale_by_adafactor,
    "scale_by_adam": optax_lib.scale_by_adam,
}


# ── The optimizer of a run ──────────────────────────────────────────────────


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
    scalers: Mapping[str, Callable] = SCALERS,
) -> tuple[optax_lib.GradientTransformation, list[ScheduleFn]]:
  """The optimizer of a run; the arguments are config fields of the same name.

  Args:
    optax_name: a key of `scalers`.
    optax: its options.
    lr: the peak step size.
    wd: weight decay of leaves named 'kernel', relative to the schedule's 1.
    lr_mults: (pattern, multiplier) pairs; first match wins, else 1.
    schedule: options of `make_schedule`, or (pattern, options) pairs that
      cover every parameter. None freezes: no update or state, not in the norm.
    grad_clip_norm: the largest global norm of the gradient; None = no limit.
    params: the parameters, or their shapes; only names are used.
    total_steps: the length of the run.
    scalers: what scales gradients, by name; no config field.

  Returns:
    The transformation (needs params in `update`), and the schedule functions
    in config order, frozen ones left out.

  Raises:
    ConfigError: see the fields' own rules.
  """
  names = tree.leaf_names(params)
  schedules, schedule_of_leaf = _resolve_schedules(names, schedule, total_steps)
  make_scaler = lookup(scalers, optax_name, "config.optax_name")
  scaler = _make_scaler(make_scaler, optax or {}, grad_clip_norm)
  if None in schedule_of_leaf:
    is_free = [fn is not None for fn in schedule_of_leaf]
    treedef = jax.tree.structure(params)
    # The mask leaves frozen parameters out of the norm for clipping, too.
    scaler = optax_lib.masked(scaler, treedef.unflatten(is_free))
  multipliers = _resolve_multipliers(names, lr_mults or ())
  scales = [lr * multiplier for multiplier in multipliers]
  # By name, and not by rank: embeddings and scales do not decay.
  decays = [wd if name.endswith("/kernel") else 0.0 for name in names]
  take_step = _take_step(scales, decays, schedule_of_leaf)
  return optax_lib.chain(scaler, take_step), schedules


def _make_scaler(
    make_scaler: Callable[..., optax_lib.GradientTransformation],
    options: Mapping[str, Any],
    grad_clip_norm: float | None,
) -> optax_lib.GradientTransformation:
  fields.check_fields(fields.options_of(make_scaler), options, "config.optax")
  scaler = make_scaler(**options)
  if not grad_clip_norm:
    return scaler
  # Clip first: no outlier then enters the moments.
  return optax_lib.chain(optax_lib.clip_by_global_norm(grad_clip_norm), scaler)


def _resolve_schedules(
    names: Sequence[str], schedule: Any, total_steps: int
) -> tuple[list[ScheduleFn], list[ScheduleFn | None]]:
  """The schedules in config order, and the one of each name (None: frozen)."""
  schedule = schedule_rules(schedule)
  schedule_of_rule = []
  for _, options in schedule:
    if options is None:
      schedule_of_rule.append(None)
    else:
      options = {**options, "total_steps": total_steps}
      schedule_of_rule.append(make_schedule(**options))
  rule_of_leaf = _match(names, schedule, "config.schedule")
  _check_coverage(names, rule_of_leaf)
  schedules = [fn for fn in schedule_of_rule if fn is not None]
  schedule_of_leaf = [schedule_of_rule[rule] for rule in rule_of_leaf]
  return schedules, schedule_of_leaf


def schedule_rules(schedule: Any) -> list[tuple[str, Any]]:
  """`config.schedule` as pairs (pattern, options); one block is for all."""
  if schedule is None or isinstance(schedule, Mapping):
    return [(".*", schedule)]
  return list(schedule)


def _check_coverage(names: Sequence[str], rule_of_leaf: Sequence[int]) -> None:
  uncovered = []
  for name, rule in zip(names, rule_of_leaf, strict=True):
    if rule < 0:
      uncovered.append(name)
  if uncovered:
    raise ConfigError(
        f"config.schedule covers no pattern for {uncovered[0]!r} and "
        f"{len(uncovered) - 1} more; end it with ('.*', …), None to freeze."
    )


def _resolve_multipliers(names: Sequence[str], lr_mults: Rules) -> list[float]:
  """The multiplier of each name."""
  for pattern, multiplier in lr_mults:
    if not multiplier > 0:
      raise ConfigError(
          f"config.lr_mults: {pattern!r} has {multiplier}, must be > 0. To "
          "freeze parameters give them the schedule None."
      )
  multipliers = []
  for rule in _match(names, lr_mults, "config.lr_mults"):
    if rule < 0:
      multipliers.append(1.0)
    else:
      _, multiplier = lr_mults[rule]
      multipliers.append(multiplier)
  return multipliers


def _match(names: Sequence[str], rules: Rules, field: str) -> list[int]:
  """For each name the index of the first rule that fits it, or −1."""
  patterns = [pattern for pattern, _ in rules]
  return tree.first_match(names, patterns, what=field)


def _take_step(
    scales: Sequence[float],
    decays: Sequence[float],
    schedules: Sequence[ScheduleFn | None],
) -> optax_lib.GradientTransformation:
  """−s(t) · (scale · u + decay · p) for each leaf; 0 where s is None."""

  def init(params):
    del params
    return optax_lib.ScaleByScheduleState(jnp.zeros((), jnp.int32))

  def update(updates, state, params):
    # The count of the updates before this one: the first update is step 0.
    value_of = _evaluate(schedules, state.count)
    count = optax_lib.safe_increment(state.count)

    def step_leaf(update, param, scale, decay, schedule):
      if schedule is None:
        # Frozen; but the mask let the raw gradient through.
        return jnp.zeros_like(param)
      step = scale * update
      if decay:
        step = step + decay * param
      return (-value_of[schedule] * step).astype(param.dtype)

    update_leaves, treedef = jax.tree.flatten(updates)
    param_leaves = treedef.flatten_up_to(params)
    steps = map(
        step_leaf, update_leaves, param_leaves, scales, decays, schedules
    )
    return treedef.unflatten(steps), optax_lib.ScaleByScheduleState(count)

  return optax_lib.GradientTransformation(init, update)


def _evaluate(
    schedules: Iterable[ScheduleFn | None], count: jax.Array
) -> dict[ScheduleFn, jax.Array]:
  """The value of each schedule, computed once however many leaves share it."""
  value_of = {}
  for schedule in schedules:
    if schedule is not None and schedule not in value_of:
      value_of[schedule] = schedule(count)
  return value_of
