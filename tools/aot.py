"""Compiles a config's train step for devices that are not there.

  python -m tools.aot --config configs/lm_coco_panoptic.py --devices 256
    [--config.field=value …]

Nothing is computed, and no data or weights are read. So the paper's sizes can
be studied on a small machine: what a device holds, the FLOPs of a step, and
what the devices send to each other. The devices are virtual CPU devices:
shapes, shardings and collectives are those of any backend, but how much memory
temporaries take depends on the scheduling of the compiler.
"""

import argparse
import dataclasses
import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from uvim import tree
from uvim.cli import app
from uvim.store.start_from import Store

_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4,
               "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
# Parts of the text of a compiled program.
_COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<op>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\(")
_ARRAY = re.compile(r"(?P<item>\w+)\[(?P<shape>[\d,]*)\]")

# The length of a run, where only its data would tell.
_ANY_STEPS = 10**6
_MEBIBYTE = 2**20


class ShapesOnly(Store):
  """A store that returns the shapes it is asked for, in place of arrays."""

  def read_all(self, path, wanted, where, *, kind):
    del path, where, kind
    return tree.flatten(wanted)

  def read_start(self, model_init, wanted, *, kind, encoder_specs=None):
    del model_init, wanted, kind, encoder_specs
    return {}


class Arguments(NamedTuple):
  """The arguments of a train step, as trees of ShapeDtypeStructs."""
  state: Any
  frozen: Any
  batch: dict[str, Any]


class Collectives(NamedTuple):
  """What the devices send to each other by one kind of operation.

  Attributes:
    count: operations in the text of the program. A loop counts once.
    num_bytes: of their results on one device.
  """
  count: int
  num_bytes: int


def compile_step(config):
  """Compiles the train step of a resolved config.

  Returns:
    (the compiled step, its `Arguments`).

  Raises:
    ConfigError: whatever the family finds wrong with the config.
  """
  import jax

  from trainers.families import make_family
  from trainers.step import make_init, make_train_step
  from uvim.learn import sharding
  mesh = sharding.make_mesh(config.mesh)
  replicated = sharding.replicated(mesh)
  # Caches belong to arrays that are not read.
  config = dataclasses.replace(config, code_cache=None, feature_cache=None)
  family = make_family(config)
  frozen = family.open(ShapesOnly()).frozen
  init, tx, _ = make_init(family, config, config.total_steps or _ANY_STEPS)
  state = jax.eval_shape(init, jax.random.PRNGKey(0))
  shardings = sharding.state_shardings(state, mesh, config.sharding)
  arguments = Arguments(
      state=sharding.with_shardings(state, shardings),
      frozen=_with_sharding(frozen, replicated),
      batch=_batch_shapes(family, sharding.batch_sharding(mesh)))
  step = jax.jit(
      make_train_step(
          family, tx, epoch_steps=_ANY_STEPS, shardings=shardings),
      donate_argnums=0,
      out_shardings=(shardings, replicated))
  with jax.set_mesh(mesh):
    return step.lower(*arguments).compile(), arguments


def _with_sharding(shapes, sharding):
  """A tree of ShapeDtypeStructs, all with this sharding."""
  import jax

  def shard(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree.map(shard, shapes)


def _batch_shapes(family, sharding) -> dict[str, Any]:
  """ShapeDtypeStructs of a batch as `config.pp_train` makes it."""
  import jax
  batch_size = family.config.batch_size

  def image_of(size):
    return jax.ShapeDtypeStruct((batch_size, *size, 3), "float32")

  if family.task is None:
    # A family that learns from images alone.
    batch = {"image": image_of(family.model.image_size)}
    return _with_sharding(batch, sharding)
  labels = family.task.label_spec(batch_size)
  if family.kind == "lm":
    # The image of stage II may be larger than that of stage I.
    image = image_of(family.prior.input_size)
    context = image_of(family.oracle.model.image_size)
    batch = {"image": image, "image_ctx": context, "labels": labels}
  else:
    batch = {"image": image_of(family.model.image_size), "labels": labels}
  return _with_sharding(batch, sharding)


def collectives(program: str) -> dict[str, Collectives]:
  """Finds what the devices send to each other, by the kind of operation.

  Args:
    program: the text of a compiled module.
  """
  found = {}
  for match in _COLLECTIVE.finditer(program):
    num_bytes = 0
    for array in _ARRAY.finditer(match["type"]):
      num_bytes += _num_bytes(array)
    count, total = found.get(match["op"], (0, 0))
    found[match["op"]] = Collectives(count + 1, total + num_bytes)
  return found


def _num_bytes(array: re.Match) -> int:
  """Bytes of an array as _ARRAY finds it, such as 'f32[8,16]'."""
  sizes = [int(size) for size in array["shape"].split(",") if size]
  return math.prod(sizes) * _ITEM_BYTES.get(array["item"], 0)


def bytes_per_device(shapes) -> int:
  """Bytes of a tree of ShapeDtypeStructs with shardings, on one device."""
  import jax
  total = 0
  for leaf in jax.tree.leaves(shapes):
    shard_shape = leaf.sharding.shard_shape(leaf.shape)
    total += math.prod(shard_shape) * leaf.dtype.itemsize
  return total


def report(compiled, arguments: Arguments, seconds: float) -> None:
  """Prints what a device holds, computes and sends."""
  print(f"compiled in {seconds:.0f} s; per device:")
  state = arguments.state
  _print_size("parameters", bytes_per_device(state.params))
  _print_size("optimizer", bytes_per_device(state.opt_state))
  _print_size("average", bytes_per_device(state.extra.get("ema", {})))
  _print_size("codebook", bytes_per_device(state.extra.get("state", {})))
  _print_size("frozen oracle", bytes_per_device(arguments.frozen))
  _print_size("batch", bytes_per_device(arguments.batch))
  memory = compiled.memory_analysis()
  _print_size("all arguments", memory.argument_size_in_bytes)
  _print_size("temporaries", memory.temp_size_in_bytes)
  for name, sent in sorted(collectives(compiled.as_text()).items()):
    _print_size(name, sent.num_bytes, f" in {sent.count}")
  flops = compiled.cost_analysis().get("flops", 0)
  print(f"  {'FLOPs, loops once':20} {flops / 1e12:10.3f} T")


def _print_size(name: str, num_bytes: int, note: str = "") -> None:
  print(f"  {name:20} {num_bytes / _MEBIBYTE:10.1f} MiB{note}")


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.aot", __doc__)
  parser.add_argument("--config", required=True,
                      help="configs/NAME.py[:argument]")
  parser.add_argument("--devices", type=int, default=1)
  return app.run(parser, compile_and_report, argv, takes_overrides=True)


def compile_and_report(args: argparse.Namespace) -> None:
  """What the command does."""
  import jax

  from trainers import config_file
  from uvim.config import resolve
  config = resolve(config_file.load_config(args.config, args.overrides))
  # Before anything asks JAX for its devices.
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", args.devices)
  began = time.monotonic()
  compiled, arguments = compile_step(config)
  seconds = time.monotonic() - began
  print(f"{args.config}, batch {config.batch_size} on {args.devices} device(s)")
  report(compiled, arguments, seconds)


if __name__ == "__main__":
  sys.exit(main())
