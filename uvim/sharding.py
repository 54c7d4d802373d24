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
RULE = re.compile(r"replicate|fsdp\((?P<axis>\w+)\)")


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


def _parse_rule(rule: str, mesh: Mesh) -> str | None:
  """The mesh axis a rule shards along; None to replicate."""
  match = RULE.fullmatch(rule)
  if not match:
    raise registry.ConfigError(
        f"config.sharding: unknown rule {rule!r}. Known: 'replicate', "
        "'fsdp(axis)'.")
  axis = match["axis"]
  if axis and axis not in mesh.shape:
    raise registry.unknown("mesh axis in config.sharding", axis, mesh.shape)
  return axis


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
  params = set(tree_lib.leaf_names(getattr(state, "params", {})))

  def rule_name(name):
    head, _, rest = name.partition("/")
    while head in ("params", "opt_state") and rest:
      if rest in params:
        return rest
      rest = rest.partition("/")[2]
    return name

  return [rule_name(name) for name in tree_lib.leaf_names(state)]


def state_shardings(
    abstract_state: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]] = ()
) -> PyTree:
  """The sharding of every leaf of a state.

  Args:
    abstract_state: TrainState of anything with a shape
      (`jax.eval_shape` of the init).
    mesh: the mesh.
    rules: (pattern, rule) pairs over names as in `_rule_names`; the first
      match wins, none means 'replicate'. A rule is 'replicate', or
      'fsdp(axis)': split over the axis along the largest dimension it divides.

  Returns:
    The same tree with NamedShardings as leaves.

  Raises:
    ConfigError: an unknown rule or axis, a pattern that matches nothing.
  """
  axes = [_parse_rule(rule, mesh) for _, rule in rules]
  matches = tree_lib.first_match(
      _rule_names(abstract_state), [p for p, _ in rules],
      what="config.sharding")
  leaves, treedef = jax.tree.flatten(abstract_state)

  def sharding(leaf, i):
    axis = axes[i] if i >= 0 else None
    spec = (_fsdp_spec(leaf.shape, axis, mesh.shape[axis])
            if axis else PartitionSpec())
    return NamedSharding(mesh, spec)

  return treedef.unflatten(map(sharding, leaves, matches))


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
