"""Stage I fixtures through this code: forward, loss, gradients, dictionary.

B batch · L code length · E codeword size · N patches · K classes, bins or
channels · P pixels in a patch
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common as parity_common
from tools.parity.common import Quantity, below, guarded, load, match
from trainers.step import example_rngs
from trainers.vqvae import VqvaeStage
from uvim import config, tree
from uvim.codes import vq as quantizer
from uvim.codes.vq import Codebook
from uvim.models import vit
from uvim.registry import ConfigError

# The original's names of fields.
RENAMED = {"enc_depth": "oracle_depth", "dec_depth": "base_model_depth"}
WITHOUT_MEANING = ("statistics_axis_name",)  # Of its device axis.
PERTURB = {"noise": 0.001, "nonoise": 0.0}
# What the original does where we do better, see docs/parity.md.
TASK_OPTIONS = {"depth_task": {"ignore_first_bin": True}}


def model_fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Constructor fields of our `ViT` from those of the original's model."""
  return {RENAMED.get(k, k): v for k, v in theirs.items()
          if k not in WITHOUT_MEANING}


def make_stage(meta: Mapping[str, Any], **changes: Any) -> VqvaeStage:
  """The stage a fixture's json describes, as its config would build it."""
  options = dict(TASK_OPTIONS.get(meta["task"], {}))
  for name in ("min_depth", "max_depth"):
    if meta.get(name) is not None:
      options[name] = meta[name]
  return VqvaeStage(config.resolve(dict(
      task=f"proj.uvim.{meta['task']}", task_options=options, dataset="none",
      train_split="none", pp_train="", batch_size=1, total_steps=1, lr=0.0,
      model_name="vit", model={**model_fields(meta["model"]), **changes})))


def forward(stage: VqvaeStage, params, codebook: Codebook, batch):
  """All that a pass without dropout meets, by the fixtures' names."""
  data = stage.task.inputs(batch)
  x_BLE = vit.encode_vectors(stage.model, params, data["x"], data["ctx"])
  z_BLE, code_BL = quantizer.quantize(codebook, x_BLE)
  logits = vit.decode_vectors(stage.model, params, z_BLE, data["ctx"])
  by_code = stage.decode(
      {"params": params, "codebook": codebook}, code_BL, batch)
  loss_B, logs = stage.task.loss(logits, data["x"])
  histogram_Q = quantizer.code_histogram(code_BL, stage.dict_size)
  out = {
      "bottleneck": x_BLE, "bottleneck_q": z_BLE, "code": code_BL,
      "codewords": quantizer.codewords(codebook),
      "loss_total_mean": jnp.mean(loss_B),
      "loss_commitment": jnp.mean(quantizer.commitment_loss(x_BLE, z_BLE)),
      "codebook_zeros_ratio": jnp.mean(histogram_Q == 0),
      "codebook_max_ratio": jnp.max(histogram_Q) / jnp.sum(histogram_Q)}
  out |= {f"logits/{key}": value for key, value in logits.items()}
  out |= {f"logits_from_code/{key}": value for key, value in by_code.items()}
  out |= {f"loss_mean/{key}": jnp.mean(value) for key, value in logs.items()}
  return out | element_losses(stage.task, logits, data["x"])


def element_losses(task, logits, x):
  """The task's own losses of every single element, [B, N, (C,) P].

  Each element as an example of its own, of one patch of one pixel.
  """
  singles = {}
  for key, label in x.items():
    if jnp.issubdtype(label.dtype, jnp.integer):
      num_classes = logits[key].shape[2]
      singles[key] = (
          logits[key].swapaxes(2, 3).reshape(-1, 1, num_classes, 1),
          label.reshape(-1, 1, 1))
    else:
      singles[key] = tuple(
          values.reshape(-1, 1, 1, 1) for values in (logits[key], label))
  _, logs = task.loss({k: pair[0] for k, pair in singles.items()},
                      {k: pair[1] for k, pair in singles.items()})
  return {f"loss/loss_{key}": logs[f"loss_{key}"].reshape(x[key].shape)
          for key in x}


def predictions(task, logits, names) -> dict[str, Any]:
  """Outputs by the fixtures' names: 'pred/KEY', 'pred/OPTION=VALUE'."""
  out = {}
  for name in names:
    option, _, value = name.removeprefix("pred/").partition("=")
    outputs = task.outputs(logits, **({option: float(value)} if value else {}))
    # A task has one output, so an option need not say of which.
    out[name] = outputs.get(option, *outputs.values())
  return out


def run(path, parts) -> Iterator[Quantity]:
  """Every quantity of one stage I fixture.

  Args:
    path: its json.
    parts: its .npz files by what follows its name: 'params', 'out', ….
  """
  meta = json.loads(path.read_text())
  if "params" not in parts:
    raise ConfigError(f"{path.stem}_params.npz is missing.")
  given = load(parts.pop("params"))
  params = tree.unflatten(below(given, "params/"))
  codebook = _codebook(given, "state/")
  batch = below(given, "batch/")
  stage = make_stage(meta)
  ours = jax.jit(forward, static_argnums=0)(stage, params, codebook, batch)
  ours = {name: np.asarray(value) for name, value in ours.items()}
  state = params, codebook, batch
  for part, file in parts.items():
    yield from guarded(file.stem, _part(part, file, ours, meta, state))


def _part(part, file, ours, meta, state) -> Iterator[Quantity]:
  """The quantities of one file."""
  where, theirs, split = file.stem, load(file), part.removeprefix("split_")
  weight = re.fullmatch(r"grad(?:_wcommit(\d)(\d*))?", part)
  if part == "out":
    yield from _outputs(where, theirs, ours, make_stage(meta))
  elif weight:
    weight = float("{}.{}".format(*(x or 0 for x in weight.groups())))
    stage = make_stage(meta, commitment_weight=weight)
    yield from _training(where, theirs, ours, stage, state)
  elif split in PERTURB:
    momentum = make_stage(meta).model.dict_momentum
    yield from _splits(where, theirs, ours["bottleneck"], momentum,
                       PERTURB[split])
  else:
    yield from parity_common.unknown_part(file)


def _codebook(arrays, prefix):
  return jax.tree.map(jnp.asarray, Codebook(**below(arrays, prefix)))


def _outputs(where, theirs, ours, stage):
  # From their logits where they are known: two that are equal but for
  # rounding may change places, and a class is right or wrong.
  logits = below(theirs, "logits/") or below(ours, "logits/")
  ours = ours | predictions(
      stage.task, {k: jnp.asarray(v) for k, v in logits.items()},
      [name for name in theirs if name.startswith("pred/")])
  yield from match(where, theirs, ours)


def _training(where, theirs, ours, stage, state):
  """Training loss, its parts and gradients, and the dictionary after it."""
  params, codebook, batch = state
  step = jax.jit(jax.value_and_grad(stage.loss, has_aux=True))
  rngs_B = example_rngs(jax.random.key(0), len(batch["image"]))
  (loss, aux), grads = step(params, codebook, None, batch, rngs_B)
  after = quantizer.update(
      codebook, aux.counts_Q, aux.sums_QE, momentum=stage.model.dict_momentum)
  logs = {name: value for name, value in aux.logs.items()
          if name.startswith("loss_")}
  result = {
      "loss": loss, "state_after/counts": after.counts,
      "state_after/dictionary": after.dictionary,
      "aux/loss_rec": sum(logs.values()),
      "aux/loss_commitment": aux.logs["code/commitment"],
      **{f"aux/codebook_{name}_ratio": ours[f"codebook_{name}_ratio"]
         for name in ("zeros", "max")},
      **{f"aux/{name}": value for name, value in logs.items()}}
  random = stage.model.code_dropout != "none"
  yield from match(
      where, theirs, result, inputs="grad/.*",
      informative="loss|aux/loss_(?!commitment).*" if random else "",
      note="code dropout draws other numbers" if random else "")
  for quantity in parity_common.gradients(where, tree.flatten(grads), theirs):
    yield dataclasses.replace(quantity, informative=random)


def _splits(where, theirs, x_BLE, momentum, perturb):
  """The dictionary from before a step to after its splits."""
  before, ema = (_codebook(theirs, f"state_{when}/")
                 for when in ("before", "ema"))
  code_BL = quantizer.lookup(before, x_BLE)
  updated = quantizer.update(
      before, *quantizer.statistics(x_BLE, code_BL, len(before.counts)),
      momentum=momentum)
  after, num_splits = quantizer.split_dead(
      ema, theirs["rng_key"], perturb=perturb)
  pairs, counts = [], [ema.counts]
  for _ in range(int(num_splits)):
    # Neither order nor counts depend on the noise.
    ema, pair = quantizer.split_once(ema, theirs["rng_key"], perturb=perturb)
    pairs.append(pair)
    counts.append(ema.counts)
  yield from match(
      where, theirs, {
          "code": code_BL, "state_ema/counts": updated.counts,
          "state_ema/dictionary": updated.dictionary,
          "i_max_i_min": np.array(pairs, int).reshape(-1, 2),
          "counts_trace": np.array(counts),
          "state_after/counts": after.counts,
          "state_after/dictionary": after.dictionary},
      inputs="rng_key|state_before/.*")
