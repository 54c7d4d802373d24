"""Fixtures of diffusion over analog bits: what training and evaluation need.

B batch · H W pixels of a mask · C channels (semantics, instance)
"""

import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common
from tools.parity.common import Quantity
from tools.parity.diffusion import read
from tools.parity.fixtures import Fixture
from uvim import resize
from uvim.diffusion import instances, outputs
from uvim.learn import ema, optim
from uvim.tasks.instances import panoptic_from_maps

# ── Losses ──────────────────────────────────────────────────────────────────

# The original's name of an output → ours.
_OUTPUTS = {
    "x": "x",
    "eps": "eps",
    "x_sigmoid_xent": "sigmoid",
    "x_softmax_xent": "softmax",
}
_LOSS = re.compile(
    r"(?P<scale>[\d.]+)/(?P<power>[\d.]+)/(?P<kind>[a-z_]+?)(_(?P<groups>\d+))?"
    r"/(loss|grad)")


def compare_loss(fixture: Fixture) -> Iterator[Quantity]:
  """Weights of pixels; losses and their gradients."""
  theirs = read(fixture)
  num_ids = fixture.read_meta()["num_ids"]
  ours = {}
  for name in theirs:
    kind, _, power = name.partition("/")
    if kind.startswith("weight"):
      labels = theirs[kind.replace("weight", "label_map")]
      ours[name] = instances.pixel_weights(
          jnp.asarray(labels[..., 1]), num_ids, float(power))
    elif name.endswith("/loss"):
      loss, gradient = _loss(theirs, _LOSS.fullmatch(name))
      ours[name] = loss
      ours[name.removesuffix("loss") + "grad"] = gradient
  yield from common.match(
      fixture.name, theirs, ours,
      inputs=["label_map*", "*/masks", "*/noise", "*/out", "*/logits*"])


def _loss(theirs, found) -> tuple[np.ndarray, np.ndarray]:
  """The loss that a name stands for, and its gradient."""
  given = common.below(theirs, f"{found['scale']}/")
  num_groups = int(found["groups"] or 2)
  output = outputs.make_output(
      _OUTPUTS[found["kind"]], float(found["scale"]), num_groups)
  target = outputs.Target(
      clean=given["masks"],
      noise=given["noise"],
      level=None,
      weight=theirs[f"weight/{found['power']}"])
  name = f"logits{num_groups}" if found["groups"] else "out"
  numbers = given[name]
  shape = numbers.shape

  def mean_loss(numbers):
    # Ours come as the network gives them: all groups in one axis.
    flat = numbers.reshape(*shape[:3], -1)
    return jnp.mean(output.loss(flat, target))

  return jax.value_and_grad(mean_loss)(numbers)


# ── Before and after the network ────────────────────────────────────────────


def compare_postprocess(fixture: Fixture) -> Iterator[Quantity]:
  """One class for each instance, and void for small ones."""
  arrays = read(fixture)
  for case in fixture.read_meta()["cases"]:
    theirs = common.below(arrays, f"{case['case']}/")
    pairs_1HWC = panoptic_from_maps(
        jnp.asarray(theirs["semantic"])[None],
        jnp.asarray(theirs["identity"])[None],
        num_classes=case["num_classes"],
        num_ids=case["max_instances"],
        max_removed=case["min_pixels"] - 1)
    semantics_HW, ids_HW = np.moveaxis(np.asarray(pairs_1HWC[0]), -1, 0)
    ours = {"out_semantic": semantics_HW, "out_identity": ids_HW}
    yield from common.match(
        f"{fixture.name}/{case['case']}", theirs, ours,
        inputs=["semantic", "identity"])


def compare_preprocess(fixture: Fixture) -> Iterator[Quantity]:
  """An image that keeps its aspect and is padded; ours are stretched.

  What is compared are the two ways to resize.
  """
  arrays = read(fixture)
  for case in fixture.read_meta()["cases"]:
    theirs = common.below(arrays, f"{case['case']}/")
    target = tuple(case["target"])
    size = _fit(theirs["orig"], target)
    image = resize.resize_bilinear(theirs["image"], size, antialias=True)
    labels = resize.resize_nearest(theirs["label_map"], size)
    ours = {
        "unpadded": np.int32(size),
        "out_image": _pad(image, target, 0.3),
        "out_label_map": _pad(labels, target, 0),
    }
    yield from common.match(
        f"{fixture.name}/{case['case']}", theirs, ours,
        inputs=["image", "label_map", "orig"])


def _fit(size, target) -> tuple[int, int]:
  """The largest size of the same aspect that is within the target."""
  scale = min(np.float32(target) / np.float32(size))
  height, width = np.round(scale * np.float32(size))
  return int(height), int(width)


def _pad(pixels, target, value) -> np.ndarray:
  """Pixels [H, W, C] with others below and to the right of them."""
  missing_rows = target[0] - pixels.shape[0]
  missing_columns = target[1] - pixels.shape[1]
  widths = ((0, missing_rows), (0, missing_columns), (0, 0))
  return np.pad(pixels, widths, constant_values=value)


# ── The optimizer ───────────────────────────────────────────────────────────


def compare_optimizer(fixture: Fixture) -> Iterator[Quantity]:
  """Step sizes, parameters after each update, and their running average."""
  theirs = read(fixture)
  meta = fixture.read_meta()
  ours = _train(theirs, meta)
  inputs = ["param/0/*", "ema/0/*", "grad/*"]
  yield from common.match(
      fixture.name, theirs, ours, inputs=inputs,
      note="all parameters decay; in a run of ours kernels alone do")


def _train(theirs, meta) -> dict[str, np.ndarray]:
  """The given gradients, one after the other."""
  adam = meta["adamw"]
  schedule = meta["lr"]
  params = _as_kernels(common.below(theirs, "param/0/"))
  average = _as_kernels(common.below(theirs, "ema/0/"))
  # Ours decay by wd times the schedule, theirs by the step size times wd.
  tx, [multiplier] = optim.make_optimizer(
      optax_name="scale_by_adam",
      optax={"b1": adam["beta1"], "b2": adam["beta2"], "eps": adam["eps"]},
      lr=schedule["base"],
      wd=adam["weight_decay"] * schedule["base"],
      grad_clip_norm=adam["global_clipnorm"],
      schedule={
          "decay_type": schedule["schedule"],
          "warmup_steps": schedule["warmup_steps"],
          "end": schedule["end_lr_factor"],
      },
      total_steps=schedule["total_steps"],
      params=params)
  ours = {"lr": np.array([
      schedule["base"] * multiplier(step) for step in range(len(theirs["lr"]))
  ])}
  state = tx.init(params)
  update = jax.jit(tx.update)
  number = 1
  while grads := _as_kernels(common.below(theirs, f"grad/{number}/")):
    updates, state = update(grads, state, params)
    params = jax.tree.map(np.add, params, updates)
    average = ema.move(average, params, meta["ema_decay"])
    for name in params:
      ours[f"param/{number}/{name}"] = params[name]["kernel"]
      ours[f"ema/{number}/{name}"] = average[name]["kernel"]
    number += 1
  return ours


def _as_kernels(arrays) -> dict[str, dict[str, np.ndarray]]:
  """Each array under a name for which weights decay."""
  return {name: {"kernel": array} for name, array in arrays.items()}
