"""Smaller fixtures through this code: optimizer, measures, outputs, names."""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import (
  common as parity_common,
)
from tools.parity import (
  stage1 as parity_stage1,
)
from tools.parity import (
  stage2 as parity_stage2,
)
from tools.parity.common import Quantity, below, guarded, load, match
from uvim import tree
from uvim.codes import vq as quantizer
from uvim.learn import optim
from uvim.models import make_model, vit
from uvim.priors import lm
from uvim.registry import ConfigError
from uvim.tasks import base, panoptic

# The options behind schedules.npz, which only names them; 20 steps.
SCHEDULES = {
    "cosine_w4": {"decay_type": "cosine", "warmup_steps": 4},
    "linear": {"decay_type": "linear", "warmup_steps": 4, "linear_end": 0.1},
    "rsqrt": {"decay_type": "rsqrt", "warmup_steps": 4, "timescale": 10,
              "cooldown_steps": 5},
    "stair": {"decay_type": "stair", "steps": [5, 9], "mults": [0.5, 0.1]},
}
MOMENTUM = "ema_bf16_as_f32"


def run_schedules(path, parts) -> Iterator[Quantity]:
  """Learning rates by step."""
  del parts
  theirs, ours = load(path), {}
  for name, values in theirs.items():
    if name in SCHEDULES:
      ours[name] = _schedule(optim.make_schedule(
          total_steps=len(values) - 1, **SCHEDULES[name]), values)
  yield from match(path.stem, theirs, ours)


def _schedule(schedule, values):
  return np.array([schedule(step) for step in range(len(values))])


def run_optax(path, parts) -> Iterator[Quantity]:
  """Parameters and moments after each update, for every config."""
  meta = json.loads(path.read_text())
  if "inputs" not in parts:
    raise ConfigError(f"{path.stem}_inputs.npz is missing.")
  given = load(parts.pop("inputs"))
  for part, file in parts.items():
    if part not in meta["configs"]:
      yield from parity_common.unknown_part(file)
      continue
    fields = meta["configs"][part] | {"total_steps": meta["total_steps"]}
    yield from guarded(file.stem, _optimizer(file, fields, given))


def _updates(fields, given, theirs):
  """What the optimizer makes of the given gradients, by the fixtures' names."""
  params = tree.unflatten(below(given, "params/"))
  tx, schedules = optim.make_optimizer(**fields, params=params)
  state, update, ours = tx.init(params), jax.jit(tx.update), {}
  for i in range(1, 1 + len({k.split("/")[0] for k in given} - {"params"})):
    updates, state = update(tree.unflatten(below(given, f"grad{i}/")), state,
                            params)
    params = jax.tree.map(np.add, params, updates)
    ours |= {f"params_after{i}/{k}": v for k, v in tree.flatten(params).items()}
  for name, leaf in tree.flatten(state).items():
    kind = re.search("/(v_row|v_col|v|ema)/", name)
    if kind:
      label = MOMENTUM if kind[1] == "ema" else kind[1]
      ours[f"{label}/{name[kind.end():]}"] = np.asarray(leaf, np.float32)
  for i, schedule in enumerate(schedules):
    if f"sched{i}" in theirs:
      ours[f"sched{i}"] = _schedule(schedule, theirs[f"sched{i}"])
  return ours


def _optimizer(file, fields, given) -> Iterator[Quantity]:
  """Where a compiler rounds may move the last of bfloat16's eight bits.

  One core, and another number of cores, do not add up in the same order. Such
  a bit of the momentum moves the next updates by as much of their size.
  """
  theirs = load(file)
  for quantity in match(file.stem, theirs, _updates(fields, given, theirs)):
    step = re.search(r"/params_after(\d+)/(.*)", quantity.name)
    if f"/{MOMENTUM}/" in quantity.name:
      quantity = dataclasses.replace(
          quantity, tolerance=2.0**-8,
          note="stored as bfloat16: to its last bit")
    elif step and int(step[1]) > 1:
      quantity = _but_for_bits(
          quantity, theirs[f"params_after{int(step[1]) - 1}/{step[2]}"])
    yield quantity


def _but_for_bits(quantity: Quantity, before: np.ndarray) -> Quantity:
  """Lets one element in a thousand follow a bit of its momentum.

  What differs in more of them is no matter of rounding: all are then held to
  the usual tolerance.
  """
  if quantity.ours is None or quantity.ours.shape != quantity.theirs.shape:
    return quantity
  largest = np.max(np.abs(quantity.theirs), initial=1e-30)
  error = np.abs(quantity.ours - quantity.theirs) / largest
  over = np.sum(~(error <= parity_common.TOLERANCE))
  if not 0 < over <= max(1, error.size // 1000):
    return quantity
  update = np.max(np.abs(quantity.theirs - before))
  return dataclasses.replace(
      quantity, tolerance=max(
          parity_common.TOLERANCE, 2.0**-8 * update / largest),
      note=f"{over} of {error.size}: the last bit of a momentum in bfloat16")


def run_panoptic(path, parts) -> Iterator[Quantity]:
  """Two-channel outputs from logits per pixel."""
  del parts
  theirs, ours = load(path), {}
  logits = {key: theirs[key] for key in panoptic.KEYS}
  size = logits["semantics"].shape[1:3]
  # One patch that is the whole picture: [B, H, W, K] to [B, 1, K, H·W].
  flat = {key: jnp.asarray(base.patchify(x, size).swapaxes(2, 3))
          for key, x in logits.items()}
  for name in theirs:
    if fraction := re.fullmatch(r"out/min_fraction=(.+)", name):
      out_B1PC = panoptic.panoptic_from_logits(
          flat["semantics"], flat["instances"],
          min_fraction=float(fraction[1]))
      ours[name] = base.unpatchify(out_B1PC, size, size)
  yield from match(path.stem, theirs, ours, inputs="semantics|instances")


def run_metrics(path, parts) -> Iterator[Quantity]:
  """Depth measures, nearest resize and PSNR of small arrays."""
  del parts
  from evaluators import nyu_depth, psnr
  from uvim import resize
  theirs, ours = load(path), {}
  if "depth_gt" in theirs:
    ours |= {name: np.float64(value) for name, value in nyu_depth.depth_image(
        theirs["depth_gt"], theirs["depth_pred"]).result().items()}
  if "psnr_label" in theirs:
    ours["psnr"] = np.array([
        psnr.psnr_image(*pair) for pair in
        zip(theirs["psnr_label"], theirs["psnr_pred"], strict=True)])
  for name in theirs:
    if size := re.fullmatch(r"resize_nearest_(\d+)x(\d+)", name):
      ours[name] = resize.resize_nearest(
          theirs["resize_in"], (int(size[1]), int(size[2])))
  yield from match(path.stem, theirs, ours,
                   inputs="depth_(gt|pred)|psnr_(label|pred)|resize_in")


def run_names(path, parts) -> Iterator[Quantity]:
  """Names, shapes and dtypes of a model's arrays, by evaluating shapes."""
  del parts
  head, *lines = path.read_text().splitlines()
  fields = ast.literal_eval(head[head.index("{"):])
  theirs = {tuple(line.split("\t")) for line in lines}
  ours = {(name, str(tuple(x.shape)), x.dtype.name)
          for name, x in _model_arrays(fields).items()}
  wrong = sorted({name for name, *_ in theirs ^ ours})
  yield Quantity(
      f"{path.stem}: {len(theirs)} names, shapes, dtypes",
      np.array(sorted(ours)), np.array(sorted(theirs)),
      note=f"differ: {', '.join(wrong[:3])} …" if wrong else "")


def _model_arrays(fields):
  """Shapes of parameters and state by published name, for either stage."""
  rng = jax.random.key(0)
  if "vocab_size" in fields:
    model = make_model("lm", parity_stage2.model_fields(fields), "config")
    wanted = {"params": jax.eval_shape(
        lambda rng: lm.init_params(model, rng), rng)}
  else:
    model = make_model("vit", parity_stage1.model_fields(fields), "config")
    wanted = {
        "params": jax.eval_shape(lambda rng: vit.init_params(model, rng), rng),
        "state": vars(jax.eval_shape(lambda rng: quantizer.init_codebook(
            rng, model.dict_size, model.codeword_dim), rng))}
  return tree.flatten(wanted)
