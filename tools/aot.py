"""Compiles a config's train step for devices that are not there.

  python -m tools.aot --config configs/lm_coco_panoptic.py --devices 256

Nothing is computed and no data or weights are read, so that the paper's sizes
can be looked at on a small machine: what a device has to hold, the FLOPs of a
step, and what the devices say to each other. The devices are virtual CPU ones:
shapes, shardings and collectives are those of any backend, but how much memory
temporaries take depends on the compiler's scheduling.
"""

import argparse
import math
import re
import sys
import time
from collections import defaultdict

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4,
              "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<op>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"(?P<item>\w+)\[(?P<shape>[\d,]*)\]")


def collectives(program: str) -> dict[str, tuple[int, int]]:
  """Name → (how many, bytes of their results on one device).

  Args:
    program: text of a compiled module. What stands in a loop counts once.
  """
  found = defaultdict(lambda: (0, 0))
  for match in COLLECTIVE.finditer(program):
    size = sum(
        math.prod(int(n) for n in array["shape"].split(",") if n)
        * ITEM_BYTES.get(array["item"], 0)
        for array in ARRAY.finditer(match["type"]))
    count, total = found[match["op"]]
    found[match["op"]] = count + 1, total + size
  return dict(found)


def abstract_stage(config):
  """The stage of a resolved config, its oracle being shapes only."""
  from trainers import lm, vqvae
  if config.oracle is None:
    return vqvae.VqvaeStage(config)

  def shapes(stage, path):
    del path
    import jax
    params, codebook = jax.eval_shape(stage.init, jax.random.key(0))
    return {"params": params, "codebook": codebook}

  lm.load_oracle = shapes
  return lm.LmStage(config)


def batch_shapes(config, stage, sharding):
  """ShapeDtypeStructs of a batch as `config.pp_train` makes it."""
  import jax

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  def image(size):
    return array((config.batch_size, *size, 3), "float32")

  labels = stage.task.label_spec(config.batch_size)
  batch = {"image": image(stage.model.input_size),
           "labels": array(labels.shape, labels.dtype)}
  if config.oracle is not None:
    # Stage II's own image may be larger than the labels.
    batch["image_ctx"] = image(stage.task.input_size)
  return batch


def compile_step(config):
  """The compiled train step of a resolved config, and its arguments."""
  import jax

  from trainers.step import make_init, make_train_step
  from uvim.learn import sharding
  mesh = sharding.make_mesh(config.mesh)
  stage = abstract_stage(config)
  init, tx, _ = make_init(stage, config, config.total_steps or 10**6)
  state = jax.eval_shape(init, jax.random.PRNGKey(0))
  shardings = sharding.state_shardings(state, mesh, config.sharding)
  frozen = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding.replicated(mesh)), stage.frozen)
  args = (sharding.with_shardings(state, shardings), frozen,
          batch_shapes(config, stage, sharding.batch_sharding(mesh)))
  step = jax.jit(
      make_train_step(stage, tx, epoch_steps=10**6, shardings=shardings),
      donate_argnums=0,
      out_shardings=(shardings, sharding.replicated(mesh)))
  with jax.set_mesh(mesh):
    return step.lower(*args).compile(), args


def bytes_per_device(tree) -> int:
  """Of a tree of ShapeDtypeStructs with shardings."""
  import jax
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves(tree))


def report(config, compiled, args, seconds: float) -> None:
  """Prints what a device holds, computes and sends."""
  state, frozen, batch = args
  memory = compiled.memory_analysis()
  rows = [(name, bytes_per_device(tree), "") for name, tree in (
      ("parameters", state.params), ("optimizer", state.opt_state),
      ("dictionary", state.codebook), ("frozen oracle", frozen),
      ("batch", batch))]
  rows += [("all arguments", memory.argument_size_in_bytes, ""),
           ("temporaries", memory.temp_size_in_bytes, "")]
  rows += [(name, size, f" in {count}") for name, (count, size) in sorted(
      collectives(compiled.as_text()).items())]
  print(f"compiled in {seconds:.0f} s; per device:")
  for name, size, note in rows:
    print(f"  {name:20} {size / 2**20:10.1f} MiB{note}")
  flops = compiled.cost_analysis().get("flops", 0)
  print(f"  {'FLOPs, loops once':20} {flops / 1e12:10.3f} T")


def load_config(argv):
  """The resolved config of `--config` and `--config.…` arguments."""
  from absl import flags
  from ml_collections import config_flags

  from trainers.main import check_overrides
  from uvim.config import resolve
  check_overrides(argv)
  values = flags.FlagValues()
  flag = config_flags.DEFINE_config_file(
      "config", None, lock_config=True, flag_values=values, sys_argv=argv)
  values(argv)
  config = flag.value
  if "oracle" in config:
    config.model_init = None  # Whatever weights it starts from.
  return resolve(config)


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__.split("\n\n")[0], prog="python -m tools.aot",
      epilog="Further arguments: --config.field=value.")
  parser.add_argument("--config", required=True,
                      help="configs/NAME.py[:argument]")
  parser.add_argument("--devices", type=int, default=1)
  args, overrides = parser.parse_known_args(argv)
  import jax

  from uvim.registry import ConfigError
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", args.devices)
  try:
    config = load_config(["aot", "--config", args.config, *overrides])
    began = time.monotonic()
    compiled, shapes = compile_step(config)
  except ConfigError as e:
    print(f"error: {e}", file=sys.stderr)
    return 2
  print(f"{args.config}, batch {config.batch_size} on {args.devices} device(s)")
  report(config, compiled, shapes, time.monotonic() - began)
  return 0


if __name__ == "__main__":
  sys.exit(main())
