"""Where arrays live: the mesh, the state's shardings by rule, batches.

Shardings change where numbers are computed, never which: the same program runs
on one device and on many. Axes are Auto, so XLA's partitioner inserts the
collectives and no model knows an axis name.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from uvim import registry
from uvim import tree as tree_lib
from uvim.typing import PyTree

DATA_AXIS = "data"
RULE = re.compile(
    r"replicate|fsdp\((?P<axis>\w+)\)|spec\((?P<spec>[\w, ]*)\)")
# What a rule is: an axis to split over, a spec, or None to replicate.
Rule = str | PartitionSpec | None


def num_data_devices() -> int:
  """How many devices share the batch, while a program is traced."""
  return jax.sharding.get_abstract_mesh().shape.get(DATA_AXIS, 1)


def make_mesh(axes: Sequence[tuple[str, int]]) -> Mesh:
  """A mesh over this run's devices.

  Args:
    axes: (name, size) pairs, outermost first; one size may be −1, the rest.
      One axis is named 'data': batches are split along it. A product smaller
      than the device count takes the first devices; one process only, because
      another could be left without any.

  Raises:
    ConfigError: names or sizes that make no mesh on these devices.
  """
  names = [name for name, _ in axes]
  sizes = [size for _, size in axes]
  num_devices = jax.device_count()
  what = f"config.mesh = {list(map(tuple, axes))}"
  if DATA_AXIS not in names or len(set(names)) != len(names):
    raise registry.ConfigError(
        f"{what}: names must differ and one must be {DATA_AXIS!r}.")
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise registry.ConfigError(
        f"{what}: sizes must be positive, and one at most −1 (the rest).")
  fixed = math.prod(s for s in sizes if s != -1)
  if num_devices % fixed == 0:
    sizes = [num_devices // fixed if s == -1 else s for s in sizes]
  total = math.prod(sizes)
  if not 0 < total <= num_devices:
    raise registry.ConfigError(
        f"{what} does not fit {num_devices} device(s): the product must divide "
        "them where a size is −1, and not exceed them otherwise.")
  if total < num_devices and jax.process_count() > 1:
    raise registry.ConfigError(
        f"{what} leaves devices idle: {total} of {num_devices}. With several "
        "processes the mesh must use all.")
  return jax.make_mesh(
      tuple(sizes), tuple(names), (AxisType.Auto,) * len(axes),
      devices=jax.devices()[:total])


def _parse_rule(text: str, mesh: Mesh) -> Rule:
  """A rule of `config.sharding`, its axes being those of the mesh."""
  match = RULE.fullmatch(text)
  if not match:
    raise registry.ConfigError(
        f"config.sharding: unknown rule {text!r}. Known: 'replicate', "
        "'fsdp(axis)', 'spec(axis or None, …)' such as 'spec(None,data)'.")
  if match["spec"] is None:
    rule, axes = match["axis"], [match["axis"]]
  else:
    axes = [None if part in ("None", "") else part
            for part in map(str.strip, match["spec"].split(","))]
    rule = PartitionSpec(*axes)
  for axis in filter(None, axes):
    if axis not in mesh.shape:
      raise registry.unknown("mesh axis in config.sharding", axis, mesh.shape)
    if axes.count(axis) > 1:
      raise registry.ConfigError(
          f"config.sharding: {text!r} names the axis {axis!r} twice.")
  return rule


def _check_spec(spec: PartitionSpec, name: str, shape: Sequence[int],
                mesh: Mesh) -> None:
  """Raises a ConfigError unless an array can be split so."""
  fits = len(spec) <= len(shape) and all(
      axis is None or size % mesh.shape[axis] == 0
      for axis, size in zip(spec, shape, strict=False))
  if not fits:
    shown = ",".join(map(str, spec))
    raise registry.ConfigError(
        f"config.sharding: 'spec({shown})' does not fit {name!r} of shape "
        f"{tuple(shape)} on the mesh {dict(mesh.shape)}.")


def _fsdp_spec(shape: Sequence[int], axis: str, size: int) -> PartitionSpec:
  """Splits the largest dimension that `size` divides; none: replicated."""
  dims = [d for d in range(len(shape)) if shape[d] % size == 0 and shape[d] > 0]
  if not dims:
    return PartitionSpec()
  best = max(dims, key=lambda d: shape[d])
  return PartitionSpec(*(axis if d == best else None for d in range(best + 1)))


def _rule_names(state: PyTree) -> list[str]:
  """The name rules see for each leaf of a state.

  A parameter's own name ('encoder/…', as in config.lr_mults), also for what
  the optimizer keeps for it, so that both follow one rule; other leaves have
  their path in the state ('step', 'codebook/dictionary', …).
  """
  params = _param_shapes(state)

  def rule_name(name):
    head, _, rest = name.partition("/")
    while head in ("params", "opt_state") and rest:
      if rest in params:
        return rest
      rest = rest.partition("/")[2]
    return name

  return [rule_name(name) for name in tree_lib.leaf_names(state)]


def _param_shapes(state: PyTree) -> dict[str, tuple[int, ...]]:
  return {name: tuple(x.shape) for name, x in tree_lib.flatten(
      getattr(state, "params", {})).items()}


def state_shardings(
    abstract_state: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]] = ()
) -> PyTree:
  """The sharding of every leaf of a state.

  Args:
    abstract_state: TrainState of anything with a shape
      (`jax.eval_shape` of the init).
    mesh: the mesh.
    rules: (pattern, rule) pairs over names as in `_rule_names`; the first
      match wins, none means 'replicate'. A rule is 'replicate'; 'fsdp(axis)':
      split over the axis along the largest dimension it divides; or
      'spec(None,axis)': the axis, if any, of each dimension. A spec is for
      the parameter and what the optimizer keeps of its shape; the rest of
      that, such as the factors of Adafactor, is small and replicated.

  Returns:
    The same tree with NamedShardings as leaves.

  Raises:
    ConfigError: an unknown rule or axis, a spec that does not fit, a pattern
      that matches nothing.
  """
  parsed = [_parse_rule(rule, mesh) for _, rule in rules]
  names, shapes = _rule_names(abstract_state), _param_shapes(abstract_state)
  matches = tree_lib.first_match(
      names, [p for p, _ in rules], what="config.sharding")
  leaves, treedef = jax.tree.flatten(abstract_state)

  def sharding(name, leaf, i):
    rule, spec = parsed[i] if i >= 0 else None, PartitionSpec()
    if isinstance(rule, PartitionSpec):
      if shapes.get(name, leaf.shape) == leaf.shape:
        _check_spec(rule, name, leaf.shape, mesh)
        spec = rule
    elif rule:
      spec = _fsdp_spec(leaf.shape, rule, mesh.shape[rule])
    return NamedSharding(mesh, spec)

  return treedef.unflatten(map(sharding, names, leaves, matches))


def without_axis(shardings: PyTree, axis: str) -> PyTree:
  """The same shardings, but whole along one axis of the mesh."""
  return jax.tree.map(
      lambda s: NamedSharding(s.mesh, PartitionSpec(
          *(None if name == axis else name for name in s.spec))), shardings)


def with_shardings(abstract_state: PyTree, shardings: PyTree) -> PyTree:
  """ShapeDtypeStructs that carry their sharding: the target of a restore."""
  return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      abstract_state, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of any array whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(
    batch_size: int, mesh: Mesh, *, what: str = "config.batch_size"
) -> None:
  """Raises ConfigError if the data axis or the processes cannot share it."""
  for size, thing in [(mesh.shape[DATA_AXIS], "devices on mesh axis 'data'"),
                      (jax.process_count(), "processes")]:
    if batch_size < 1 or batch_size % size:
      raise registry.ConfigError(
          f"{what} = {batch_size} is not a multiple of the {size} {thing}.")


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Global arrays, split along 'data', from this process's share of a batch.

  Args:
    batch: numpy arrays [B / processes, …] of one process.
    mesh: the mesh.

  Returns:
    jax arrays [B, …] under the same keys.
  """
  sharding = batch_sharding(mesh)
  return {
      key: jax.make_array_from_process_local_data(sharding, np.asarray(x))
      for key, x in batch.items()
  }


def gather_to_host(tree: PyTree) -> PyTree:
  """The whole of every array as numpy, on every process (all must call)."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  # Here, because it must not be touched before jax.distributed is set up.
  from jax.experimental import multihost_utils
  return jax.tree.map(
      lambda x: np.asarray(x) if x.is_fully_replicated
      else multihost_utils.process_allgather(x, tiled=True), tree)
