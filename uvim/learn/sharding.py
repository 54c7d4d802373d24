"""Where arrays live: the mesh, and how states and batches lie on it.

Shardings change where numbers are computed, never which numbers: the same
program runs on one device and on many. Axes are Auto: XLA's partitioner inserts
the collectives, and no model knows the name of an axis.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from uvim import tree
from uvim.learn import devices
from uvim.registry import ConfigError, unknown
from uvim.typing import PyTree

DATA_AXIS = "data"
# Parameters of more bytes are not copied to a spare device: a machine that
# holds them once may not hold them twice.
MAX_COPY_BYTES = 2**29
_RULE = re.compile(
    r"replicate|fsdp\((?P<axis>\w+)\)|spec\((?P<spec>[\w, ]*)\)"
)


@dataclasses.dataclass(frozen=True)
class Fsdp:
  """The rule 'fsdp(axis)'; the other rules are PartitionSpecs.

  Attributes:
    axis: the mesh axis to split over.
  """
  axis: str


Rule = Fsdp | PartitionSpec


def num_data_devices() -> int:
  """How many devices share the batch, while a program is traced."""
  # Outside of any mesh the shape is empty, and one device has all.
  return jax.sharding.get_abstract_mesh().shape.get(DATA_AXIS, 1)


def by_device(
    function: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
  """function(*arrays), computed by each device for its own part of the batch.

  For a function that joins the axis of the batch with another. The partitioner
  cannot follow it there, and gives every device the whole batch.

  Args:
    function: makes an array [B, …] of such arrays. An image in it must not
      depend on the others, but for rounding.
    *arrays: [B, …] each.
  """
  num_devices = num_data_devices()
  if num_devices == 1 or len(arrays[0]) % num_devices:
    return function(*arrays)
  by_batch = PartitionSpec(DATA_AXIS)
  return jax.shard_map(
      function,
      in_specs=by_batch,
      out_specs=by_batch,
      axis_names={DATA_AXIS},
      # Loops in it begin with constants, which are the same on all devices.
      check_vma=False,
  )(*arrays)


def make_mesh(axes: Sequence[tuple[str, int]]) -> Mesh:
  """A mesh over this run's devices; a spare one (`devices.spare`) is left out.

  Args:
    axes: (name, size) pairs, outermost first. One axis is named 'data':
      batches are split along it. One size may be −1: it becomes whatever the
      other sizes leave. If the product is smaller than the device count, the
      mesh takes the first devices. Only a run of one process allows this:
      another process could be left without any device.

  Raises:
    ConfigError: names or sizes that make no mesh on these devices.
  """
  field = f"config.mesh = {list(map(tuple, axes))}"
  names = [name for name, _ in axes]
  if DATA_AXIS not in names or len(set(names)) != len(names):
    raise ConfigError(
        f"{field}: names must differ and one must be {DATA_AXIS!r}."
    )
  free_devices = devices.of_runs()
  num_devices = len(free_devices)
  sizes = _axis_sizes([size for _, size in axes], num_devices, field)
  num_used = math.prod(sizes)
  if num_used < num_devices and jax.process_count() > 1:
    raise ConfigError(
        f"{field} leaves devices idle: {num_used} of {num_devices}. With "
        "several processes the mesh must use all."
    )
  return jax.make_mesh(
      tuple(sizes),
      tuple(names),
      axis_types=(AxisType.Auto,) * len(axes),
      devices=free_devices[:num_used],
  )


def _axis_sizes(
    sizes: Sequence[int], num_devices: int, field: str
) -> list[int]:
  """The sizes of a mesh; −1 becomes the rest of the devices."""
  # A size of -1 is open. With two of them there would be many answers.
  given = [size for size in sizes if size != -1]
  num_open = len(sizes) - len(given)
  if num_open > 1 or any(size < 1 for size in given):
    raise ConfigError(
        f"{field}: sizes must be positive, and one at most −1 (the rest)."
    )
  num_given = math.prod(given)
  if num_open:
    fits = num_devices % num_given == 0
  else:
    fits = num_given <= num_devices
  if not fits:
    raise ConfigError(
        f"{field} does not fit {num_devices} device(s): the product must "
        "divide them where a size is −1, and not exceed them otherwise."
    )
  # Used for an open size only; there the division has no remainder.
  rest = num_devices // num_given
  return [rest if size == -1 else size for size in sizes]


def prediction_mesh(
    mesh: Mesh,
    variables: PyTree,
    batch_size: int,
    spare: jax.Device | None = None,
) -> Mesh:
  """The mesh for predictions: that of the run, or its device and the spare one.

  Args:
    mesh: of the run.
    variables: what predictions need; they have to be copied to the mesh.
    batch_size: images that are predicted at once.
    spare: None: that of the process, if it has one.

  Returns:
    A mesh with the axis 'data'. It is `mesh` itself unless that has one device,
    there is a spare one, the two can share the batch, and the variables have
    MAX_COPY_BYTES at most.
  """
  spare = spare or devices.spare()
  if spare is None or mesh.size != 1:
    return mesh
  both = [*mesh.devices.flat, spare]
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
  if batch_size % len(both) or num_bytes > MAX_COPY_BYTES:
    return mesh
  return jax.make_mesh(
      (len(both),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=both)


def spread_predictions(
    mesh: Mesh, variables: PyTree, batch_size: int
) -> tuple[Mesh, PyTree]:
  """(where to predict, the variables there); arguments of `prediction_mesh`."""
  chosen = prediction_mesh(mesh, variables, batch_size)
  if chosen != mesh:
    variables = jax.device_put(variables, replicated(chosen))
  return chosen, variables


def _parse_rule(text: str, mesh: Mesh) -> Rule:
  """A rule of `config.sharding`; its axes are those of the mesh."""
  # A group of the pattern is None where its kind of rule was not matched.
  match = _RULE.fullmatch(text)
  if not match:
    raise ConfigError(
        f"config.sharding: unknown rule {text!r}. Known: 'replicate', "
        "'fsdp(axis)', 'spec(axis or None, …)' such as 'spec(None,data)'."
    )
  if match["axis"] is not None:
    _check_axes([match["axis"]], text, mesh)
    return Fsdp(match["axis"])
  # Not `if match["spec"]`: 'spec()' is a rule too, and its text is empty.
  if match["spec"] is not None:
    axes = [_parse_axis(part) for part in match["spec"].split(",")]
    _check_axes(axes, text, mesh)
    return PartitionSpec(*axes)
  return PartitionSpec()  # 'replicate'


def _parse_axis(text: str) -> str | None:
  axis = text.strip()
  if axis in ("None", ""):
    return None
  return axis


def _check_axes(axes: Sequence[str | None], text: str, mesh: Mesh) -> None:
  """Raises a ConfigError unless the mesh has the axes, each named once."""
  for axis in axes:
    if axis is None:
      continue
    if axis not in mesh.shape:
      raise unknown("mesh axis in config.sharding", axis, mesh.shape)
    if axes.count(axis) > 1:
      raise ConfigError(
          f"config.sharding: {text!r} names the axis {axis!r} twice."
      )


def _check_spec(
    spec: PartitionSpec, name: str, shape: Sequence[int], mesh: Mesh
) -> None:
  """Raises a ConfigError unless the spec can split an array of this shape."""
  fits = len(spec) <= len(shape)
  # A spec may be shorter than the shape: the other dimensions stay whole.
  for axis, size in zip(spec, shape, strict=False):
    if axis is not None and size % mesh.shape[axis] != 0:
      fits = False
  if not fits:
    shown = ",".join(map(str, spec))
    raise ConfigError(
        f"config.sharding: 'spec({shown})' does not fit {name!r} of shape "
        f"{tuple(shape)} on the mesh {dict(mesh.shape)}."
    )


def _fsdp_spec(
    shape: Sequence[int], axis: str, axis_size: int
) -> PartitionSpec:
  """Splits the largest dimension that the axis divides, or none."""
  # Of equal dimensions the first one is taken.
  largest = None
  for dimension, size in enumerate(shape):
    can_split = size > 0 and size % axis_size == 0
    if can_split and (largest is None or size > shape[largest]):
      largest = dimension
  if largest is None:
    return PartitionSpec()
  # None keeps a dimension whole. Those after the last entry are whole anyway.
  whole_before = [None] * largest
  return PartitionSpec(*whole_before, axis)


def _rule_name(name: str, param_shapes: Mapping[str, Any]) -> str:
  """The name that rules see for a leaf of a state.

  The name of a parameter is its own ('encoder/…', as in config.lr_mults). The
  arrays that the optimizer keeps for it have the same name, so one rule fits
  all of them. Other leaves have their path in the state ('step', …).

  Args:
    name: path of the leaf in the state: 'params/encoder/…' or, for what the
      optimizer keeps, such as 'opt_state/0/1/ema/encoder/…'.
    param_shapes: has the names of the parameters.
  """
  folders = name.split("/")
  if folders[0] not in ("params", "opt_state"):
    return name
  # How many folders lie before the parameter's name depends on the optimizer.
  # So try every ending of the path, the longest first.
  for start in range(1, len(folders)):
    ending = "/".join(folders[start:])
    if ending in param_shapes:
      return ending
  return name


def _param_shapes(state: PyTree) -> dict[str, tuple[int, ...]]:
  # Not every state has parameters.
  params = tree.flatten(getattr(state, "params", {}))
  return {name: tuple(array.shape) for name, array in params.items()}


def state_shardings(
    abstract_state: PyTree, mesh: Mesh, rules: Sequence[tuple[str, str]] = ()
) -> PyTree:
  """The sharding of every leaf of a state.

  Args:
    abstract_state: TrainState of anything with a shape
      (`jax.eval_shape` of the init).
    mesh: the mesh.
    rules: (pattern, rule) pairs over names as in `_rule_name`; the first
      match wins, none means 'replicate'. A rule is 'replicate'; 'fsdp(axis)':
      split over the axis along the largest dimension it divides; or
      'spec(None,axis)': the axis, if any, of each dimension. A spec splits
      the parameter and those optimizer arrays that have its shape. Others,
      such as the factors of Adafactor, are small: every device has all of
      them.

  Returns:
    The same tree with NamedShardings as leaves.

  Raises:
    ConfigError: an unknown rule or axis, a spec that does not fit, a pattern
      that matches nothing.
  """
  param_shapes = _param_shapes(abstract_state)
  leaf_names = tree.leaf_names(abstract_state)
  names = [_rule_name(name, param_shapes) for name in leaf_names]
  # Parse all rules, also those that match nothing: a typo must not go unseen.
  parsed_rules = [_parse_rule(rule, mesh) for _, rule in rules]
  patterns = [pattern for pattern, _ in rules]
  matches = tree.first_match(names, patterns, what="config.sharding")

  leaves, treedef = jax.tree.flatten(abstract_state)
  shardings = []
  for name, leaf, index in zip(names, leaves, matches, strict=True):
    rule = PartitionSpec()
    if index >= 0:
      rule = parsed_rules[index]
    # A leaf that belongs to no parameter stands for itself.
    param_shape = param_shapes.get(name, leaf.shape)
    spec = _leaf_spec(rule, name, leaf.shape, param_shape, mesh)
    shardings.append(NamedSharding(mesh, spec))
  return treedef.unflatten(shardings)


def _leaf_spec(
    rule: Rule,
    name: str,
    shape: tuple[int, ...],
    param_shape: tuple[int, ...],
    mesh: Mesh,
) -> PartitionSpec:
  """What a rule means for one leaf."""
  if isinstance(rule, Fsdp):
    # Chosen anew for each shape, so the factors of Adafactor are split as well.
    return _fsdp_spec(shape, rule.axis, mesh.shape[rule.axis])
  # A spec names the dimensions of the parameter. It says nothing about an array
  # of another shape.
  if shape != param_shape:
    return PartitionSpec()
  _check_spec(rule, name, shape, mesh)
  return rule


def without_axis(shardings: PyTree, axis: str) -> PyTree:
  """The same shardings, except that one axis of the mesh splits nothing."""

  def drop_axis(sharding):
    kept = [None if name == axis else name for name in sharding.spec]
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))

  return jax.tree.map(drop_axis, shardings)


def with_shardings(abstract_state: PyTree, shardings: PyTree) -> PyTree:
  """ShapeDtypeStructs that carry their sharding: the target of a restore."""

  def add_sharding(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree.map(add_sharding, abstract_state, shardings)


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
  # Devices split the batch, and before that each process reads its share of it.
  sharers = {
      "devices on mesh axis 'data'": mesh.shape[DATA_AXIS],
      "processes": jax.process_count(),
  }
  for things, count in sharers.items():
    if batch_size < 1 or batch_size % count:
      raise ConfigError(
          f"{what} = {batch_size} is not a multiple of the {count} {things}."
      )


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
  """Global arrays, split along 'data', from this process's share of a batch.

  Args:
    batch: numpy arrays [B / processes, …] of one process.
    mesh: the mesh.

  Returns:
    jax arrays [B, …] under the same keys.
  """
  sharding = batch_sharding(mesh)
  global_batch = {}
  for key, values in batch.items():
    global_batch[key] = jax.make_array_from_process_local_data(
        sharding, np.asarray(values)
    )
  return global_batch


def gather_to_host(arrays: PyTree) -> PyTree:
  """Every array as numpy, whole, on every process. All processes must call."""
  if jax.process_count() == 1:
    return jax.device_get(arrays)
  # Imported here: nobody may touch it before jax.distributed is set up.
  from jax.experimental import multihost_utils

  def gather(array):
    if array.is_fully_replicated:
      # Every process has all of it already: no communication.
      return np.asarray(array)
    # `tiled` joins the parts; otherwise they would be stacked on a new axis.
    return multihost_utils.process_allgather(array, tiled=True)

  return jax.tree.map(gather, arrays)
