"""Stage I fixtures through this code: forward, loss, gradients, dictionary.

B batch · L code length · E codeword size · N patches · Q number of words
K classes, bins or channels · P pixels in a patch
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import fixtures
from tools.parity.common import Quantity, below, match, match_gradients
from tools.parity.fixtures import Fixture
from trainers.families.vqvae import VqvaeFamily
from trainers.step import example_rngs
from uvim import config, tree
from uvim.codes import vq

# The original's names of fields.
RENAMED = {"enc_depth": "oracle_depth", "dec_depth": "base_model_depth"}
# Fields that mean nothing here: the original's device axis.
WITHOUT_MEANING = ("statistics_axis_name",)
# What the original does where we do better, see docs/parity.md.
TASK_OPTIONS = {"depth_task": {"ignore_first_bin": True}}
# Half the width of the noise of a split, by the part that shows splits.
NOISE_OF_PART = {"split_noise": 0.001, "split_nonoise": 0.0}


@dataclasses.dataclass(frozen=True)
class Case:
  """A fixture that has been run forwards.

  Attributes:
    meta: its json.
    arrays: the model's, {"params", "state"}.
    batch: image and labels.
    forward: what `forward` gives, on the host.
  """
  meta: Mapping[str, Any]
  arrays: dict[str, Any]
  batch: dict[str, np.ndarray]
  forward: dict[str, np.ndarray]


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every quantity of one stage I fixture."""
  meta = fixture.read_meta()
  given = fixture.read_part(fixtures.PARAMS)
  arrays = {
      "params": tree.unflatten(below(given, "params/")),
      "state": below(given, "state/"),
  }
  batch = below(given, "batch/")
  run_forward = jax.jit(forward, static_argnums=0)
  outputs = run_forward(make_family(meta), arrays, batch)
  case = Case(meta, arrays, batch, jax.device_get(outputs))
  compare_part = functools.partial(_compare_part, case)
  yield from fixtures.compare_parts(fixture, fixtures.PARAMS, compare_part)


def _compare_part(case: Case, part: str,
                  path: pathlib.Path) -> Iterator[Quantity]:
  """The quantities of one file."""
  theirs = fixtures.read_arrays(path)
  if part == "out":
    yield from _compare_outputs(case, path.stem, theirs)
  elif part == "grad" or part.startswith("grad_wcommit"):
    weight = commitment_weight(part)
    yield from _compare_training(case, path.stem, theirs, weight)
  elif part in NOISE_OF_PART:
    yield from _compare_splits(case, path.stem, theirs, NOISE_OF_PART[part])
  else:
    yield from fixtures.compare_unknown_part(path)


def commitment_weight(part: str) -> float:
  """The weight that a part's name tells: 'grad' 0, 'grad_wcommit025' 0.25."""
  digits = part.removeprefix("grad").removeprefix("_wcommit") or "0"
  return float(f"{digits[0]}.{digits[1:]}")


# ── The model of a fixture ──────────────────────────────────────────────────


def model_fields(theirs: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of our stage I model from those of the original's."""
  ours = {}
  for name, value in theirs.items():
    if name not in WITHOUT_MEANING:
      ours[RENAMED.get(name, name)] = value
  return ours


def make_family(meta: Mapping[str, Any], **changes: Any) -> VqvaeFamily:
  """The family that a fixture's json describes.

  Args:
    meta: the json.
    **changes: to the model's fields.
  """
  task_options = dict(TASK_OPTIONS.get(meta["task"], {}))
  for name in ("min_depth", "max_depth"):
    if meta.get(name) is not None:
      task_options[name] = meta[name]
  # No data and no training: these fields are required, and nobody reads them.
  run_fields = {
      "dataset": "none",
      "train_split": "none",
      "pp_train": "",
      "batch_size": 1,
      "total_steps": 1,
      "lr": 0.0,
  }
  return VqvaeFamily(config.resolve({
      **run_fields,
      "task": f"proj.uvim.{meta['task']}",
      "task_options": task_options,
      "model_name": "vit",
      "model": {**model_fields(meta["model"]), **changes},
  }))


def forward(family: VqvaeFamily, arrays, batch) -> dict[str, jax.Array]:
  """All that a pass without dropout meets, by the fixtures' names."""
  model = family.model
  data = family.task.inputs(batch)
  coded = model.oracle(arrays, data["x"], data["ctx"])
  logits = model.base_model(arrays, coded.z_BLE, data["ctx"])
  logits_from_code = family.decode(arrays, coded.code, batch)
  loss_B, logs = family.task.loss(logits, data["x"])
  counts_Q = model.quantizer.usage(coded.stats)
  # The original's bottleneck is standardised. Here the quantizer does that to
  # what the oracle's head gives, and does not show it.
  head_BLE = model.vit.apply(
      {"params": arrays["params"]}, data["x"], data["ctx"], method="encode")
  bottleneck_BLE = jax.nn.standardize(head_BLE, axis=-1)
  codebook = vq.from_state(arrays["state"])
  outputs = {
      "bottleneck": bottleneck_BLE,
      "bottleneck_q": coded.z_BLE,
      "code": coded.code,
      "codewords": vq.codewords(codebook),
      "loss_total_mean": jnp.mean(loss_B),
      "loss_commitment": coded.logs["code/commitment"],
      "codebook_zeros_ratio": jnp.mean(counts_Q == 0),
      "codebook_max_ratio": jnp.max(counts_Q) / jnp.sum(counts_Q),
  }
  outputs |= _below("logits", logits)
  outputs |= _below("logits_from_code", logits_from_code)
  for name, values_B in logs.items():
    outputs[f"loss_mean/{name}"] = jnp.mean(values_B)
  return outputs | split_losses(family.task, logits, data["x"])


def _below(folder: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
  return {f"{folder}/{name}": value for name, value in arrays.items()}


def split_losses(task, logits, labels) -> dict[str, jax.Array]:
  """The task's own losses of every single element, [B, N, (C,) P].

  The task averages over an example. So each element becomes an example of its
  own, of one patch of one pixel.
  """
  single_logits = {}
  single_labels = {}
  for key, label in labels.items():
    if jnp.issubdtype(label.dtype, jnp.integer):
      # Logits [B, N, K, P]: all K of them belong to one element.
      num_classes = logits[key].shape[2]
      classes_last = logits[key].swapaxes(2, 3)
      single_logits[key] = classes_last.reshape(-1, 1, num_classes, 1)
      single_labels[key] = label.reshape(-1, 1, 1)
    else:
      single_logits[key] = logits[key].reshape(-1, 1, 1, 1)
      single_labels[key] = label.reshape(-1, 1, 1, 1)
  _, logs = task.loss(single_logits, single_labels)
  element_losses = {}
  for key, label in labels.items():
    name = f"loss_{key}"
    element_losses[f"loss/{name}"] = logs[name].reshape(label.shape)
  return element_losses


# ── Files ───────────────────────────────────────────────────────────────────


def _compare_outputs(case: Case, file: str, theirs) -> Iterator[Quantity]:
  # From their logits where they are known: two that are equal but for
  # rounding may change places, and a class is right or wrong.
  logits = below(theirs, "logits/") or below(case.forward, "logits/")
  logits = {key: jnp.asarray(value) for key, value in logits.items()}
  names = [name for name in theirs if name.startswith("pred/")]
  task = make_family(case.meta).task
  ours = case.forward | predictions(task, logits, names)
  yield from match(file, theirs, ours)


def predictions(task, logits, names: Iterable[str]) -> dict[str, Any]:
  """Outputs by the fixtures' names: 'pred/KEY', 'pred/OPTION=VALUE'."""
  found = {}
  for name in names:
    key, _, value = name.removeprefix("pred/").partition("=")
    if value:
      outputs = task.outputs(logits, **{key: float(value)})
      # A task has one output, so an option need not say of which.
      (found[name],) = outputs.values()
    else:
      found[name] = task.outputs(logits)[key]
  return found


def _compare_training(case: Case, file: str, theirs,
                      weight: float) -> Iterator[Quantity]:
  """Training loss, its parts and gradients, and the dictionary after it."""
  family = make_family(case.meta, commitment_weight=weight)
  loss, report, grads = _train_once(family, case)
  # One update without splits, which the original does elsewhere.
  codebook = vq.update(
      vq.from_state(case.arrays["state"]),
      report.stats["counts"],
      report.stats["sums"],
      momentum=family.model.quantizer.dict_momentum)
  task_losses = {name: value for name, value in report.logs.items()
                 if name.startswith("loss_")}
  ours = {
      "loss": loss,
      "state_after/counts": codebook.counts,
      "state_after/dictionary": codebook.dictionary,
      "aux/loss_rec": sum(task_losses.values()),
      "aux/loss_commitment": report.logs["code/commitment"],
  }
  for name in ("codebook_zeros_ratio", "codebook_max_ratio"):
    ours[f"aux/{name}"] = case.forward[name]
  ours |= _below("aux", task_losses)

  # Under code dropout, whatever f takes part in follows from chance.
  is_random = family.model.code_dropout != "none"
  informative = []
  note = ""
  if is_random:
    informative = ["loss", "aux/loss_rec", *_below("aux", task_losses)]
    note = "code dropout draws other numbers"
  yield from match(file, theirs, ours, inputs=["grad/*"],
                   informative=informative, note=note)
  for quantity in match_gradients(file, grads, theirs):
    yield dataclasses.replace(quantity, informative=is_random)


def _train_once(family: VqvaeFamily, case: Case):
  """(loss, report, gradients by name) of one training step."""
  value_and_grad = jax.jit(jax.value_and_grad(family.loss, has_aux=True))
  params = case.arrays["params"]
  extra = {"state": case.arrays["state"]}
  batch_size = len(case.batch["image"])
  rngs_B = example_rngs(jax.random.key(0), batch_size)
  (loss, report), grads = value_and_grad(
      params, extra, None, case.batch, rngs_B, jnp.int32(0))
  return loss, report, tree.flatten(grads)


def _compare_splits(case: Case, file: str, theirs,
                    noise: float) -> Iterator[Quantity]:
  """The dictionary from before a step to after its splits."""
  x_BLE = case.forward["bottleneck"]
  quantizer = make_family(case.meta).model.quantizer
  before = _codebook(theirs, "state_before/")
  code_BL = vq.lookup(before, x_BLE)
  counts_Q, sums_QE = vq.statistics(x_BLE, code_BL, len(before.counts))
  updated = vq.update(before, counts_Q, sums_QE,
                      momentum=quantizer.dict_momentum)

  # From their own averages on, so that rounding picks no other entry.
  averages = _codebook(theirs, "state_ema/")
  after, num_splits = vq.split_dead(
      averages, theirs["rng_key"], perturb=noise)
  pairs, counts = _trace_splits(
      averages, theirs["rng_key"], noise, int(num_splits))
  ours = {
      "code": code_BL,
      "state_ema/counts": updated.counts,
      "state_ema/dictionary": updated.dictionary,
      "i_max_i_min": pairs,
      "counts_trace": counts,
      "state_after/counts": after.counts,
      "state_after/dictionary": after.dictionary,
  }
  yield from match(file, theirs, ours, inputs=["rng_key", "state_before/*"])


def _trace_splits(codebook: vq.Codebook, rng, noise: float,
                  num_splits: int) -> tuple[np.ndarray, np.ndarray]:
  """Per split (most used, least used), and the counts before and after each.

  Neither depends on the noise, so one key serves all splits.
  """
  pairs = []
  counts = [codebook.counts]
  for _ in range(num_splits):
    codebook, pair = vq.split_once(codebook, rng, perturb=noise)
    pairs.append(pair)
    counts.append(codebook.counts)
  return np.array(pairs, int).reshape(-1, 2), np.array(counts)


def _codebook(arrays: Mapping[str, Any], prefix: str) -> vq.Codebook:
  state = jax.tree.map(jnp.asarray, below(arrays, prefix))
  return vq.from_state(state)
