"""Fixtures of GIVT: densities, both stages, masks, lists of names.

B batch · L code length · E numbers of a code vector

The sizes of every case stand in `givt.json`.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common, fixtures, givt_masked
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.codes import gaussian
from uvim.models import make_model
from uvim.models.guided import GuidedModel
from uvim.nn import losses
from uvim.priors.givt import GivtPrior
from uvim.priors.mixtures import MixtureForm
from uvim.store import givt_files, shapes
from uvim.tasks.base import patchify, unpatchify

# The fixture's names of temperatures.
_TEMPERATURES = {
    "plain": {},
    "scale085": {"temp": 0.85},
    "both": {"temp": 0.9, "temp_probs": 2.0},
}
# The older form of a scale goes down to its floor, 1e-6, whose inverse squares
# the rounding of.
_OLD_FORM_TOLERANCE = 1e-3
_PARAMS = "params/"


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every quantity of `givt.npz`."""
  arrays = fixtures.read_arrays(fixture.path)
  index = json.loads(fixture.path.with_suffix(".json").read_text())
  file = fixture.name
  for case, about in index["pdf"].items():
    theirs = common.below(arrays, f"pdf/{case}/")
    yield from _compare_densities(f"{file}/pdf/{case}", theirs, about)
  yield from _compare_stage_i(
      f"{file}/vae", common.below(arrays, "vae/"), index["vae"])
  yield from _compare_stage_ii(
      f"{file}/givt", common.below(arrays, "givt/"), index["givt"])
  form = make_form(index["masked"], index["masked"]["out_dim"])
  yield from givt_masked.compare(file, arrays, index["masked"], form)


# ── Densities ───────────────────────────────────────────────────────────────


def make_form(about: Mapping[str, Any], out_dim: int, **changes) -> MixtureForm:
  """Our form of a density from the options of the original."""
  names = [field.name for field in dataclasses.fields(MixtureForm)]
  given = {name: about[name] for name in names if name in about}
  return MixtureForm(**{**given, "out_dim": out_dim, **changes})


def _compare_densities(file, theirs, about) -> Iterator[Quantity]:
  for name in ("fixed_square_plus", "old_square_plus"):
    is_fixed = name == "fixed_square_plus"
    of_form = common.below(theirs, f"{name}/")
    out_dim = of_form["x"].shape[-1]
    form = make_form(about, out_dim, fix_square_plus=is_fixed)
    run = jax.jit(functools.partial(_run_density, form))
    ours = run(of_form)
    quantities = common.match(
        f"{file}/{name}", of_form, ours, inputs=["logits", "x"])
    for quantity in quantities:
      if quantity.name.endswith("/grad_mean_nll") and not is_fixed:
        quantity = dataclasses.replace(
            quantity, tolerance=_OLD_FORM_TOLERANCE)
      yield quantity


def _run_density(form: MixtureForm, theirs) -> dict[str, Any]:
  """Our arrays of one form, by the fixture's names."""
  ours = {}
  for name, temperatures in _TEMPERATURES.items():
    density = form.density(theirs["logits"], **temperatures)
    ours[f"log_prob/{name}"] = density.log_prob(theirs["x"])

  def mean_nll(logits):
    return -jnp.mean(form.density(logits).log_prob(theirs["x"]))

  ours["grad_mean_nll"] = jax.grad(mean_nll)(theirs["logits"])
  return ours


# ── Stage I ─────────────────────────────────────────────────────────────────


def _compare_stage_i(file, theirs, about) -> Iterator[Quantity]:
  model = _make_stage_i(about)
  classes = {label: num for label, (_, num) in about["inout_specs"].items()}
  stored = _renamed(common.below(theirs, _PARAMS), _PARAMS)
  arrays = tree.unflatten(givt_files.rename(stored, classes))
  labels = _labels_in_patches(about, theirs["labels"])
  run = jax.jit(functools.partial(_run_stage_i, model, about["beta"]))
  ours, grads = run(arrays["params"], labels, theirs["noise"])
  yield from common.match(
      file, theirs, ours, inputs=["params/*", "grad/*", "labels", "noise"])
  # Gradients have the names of their parameters, which get our names.
  stored_grads = _renamed(common.below(theirs, common.GRADIENTS), _PARAMS)
  their_grads = givt_files.rename(stored_grads, classes)
  their_grads = common.below(their_grads, _PARAMS)
  our_grads = tree.flatten(grads)
  # The original has one bias for all labels, ours has one for each.
  for label in list(classes)[1:]:
    name = f"embedding_{label}/bias"
    del our_grads[name]
    del their_grads[name]
  yield from common.match_gradients(
      file, our_grads, _renamed(their_grads, common.GRADIENTS))


def _renamed(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """The arrays, each with the prefix before its name."""
  return {f"{prefix}{name}": array for name, array in arrays.items()}


def _make_stage_i(about: Mapping[str, Any]) -> GuidedModel:
  num_pixels = int(np.prod(about["patch_size"]))
  labels = {label: (num, num_pixels)
            for label, (_, num) in about["inout_specs"].items()}
  same_names = ("input_size", "patch_size", "code_len", "width", "mlp_dim",
                "num_heads", "codeword_dim", "head_zeroinit")
  model_fields = {name: about[name] for name in same_names}
  bottleneck = "resize" if about["bottleneck_resize"] else "linear"
  model_fields |= dict(
      oracle_depth=about["enc_depth"], base_model_depth=about["dec_depth"],
      bottleneck=bottleneck, inputs=labels, outputs=labels,
      with_encoder_ctx=False, with_decoder_ctx=False, quantizer="gaussian",
      beta=about["beta"], code_dropout="none")
  return make_model("vit", model_fields, "config.model")


def _labels_in_patches(about, labels) -> dict[str, Any]:
  """Of each label its classes, [B, N, P]."""
  return {label: patchify(labels[..., channel], about["patch_size"])
          for label, (channel, _) in about["inout_specs"].items()}


def _run_stage_i(model: GuidedModel, beta, params, labels, noise_BLE):
  """(our arrays by the fixture's names, the gradients of the loss)."""
  loss = functools.partial(_stage_i_loss, model, beta)
  loss_and_gradient = jax.value_and_grad(loss, has_aux=True)
  (_, ours), grads = loss_and_gradient(params, labels, noise_BLE)
  return ours, grads


def _stage_i_loss(model, beta, params, labels, noise_BLE):
  """The loss as the original has it, with the noise of the fixture."""
  arrays = {"params": params, "state": {}}
  head_BLE = model.vit.apply(
      {"params": params}, labels, None, method="encode")
  mean_BLE, log_variance_BLE = gaussian.posterior(head_BLE)
  z_BLE = gaussian.with_noise(mean_BLE, log_variance_BLE, noise_BLE)
  logits = model.base_model(arrays, z_BLE, None)
  kl_B = gaussian.kl_divergence(mean_BLE, log_variance_BLE)
  ours = {"mu": mean_BLE, "logvar": log_variance_BLE, "z": z_BLE}
  vit = model.vit
  for label, logits_BNKP in logits.items():
    logits_BNPK = jnp.swapaxes(logits_BNKP, 2, 3)
    ours[f"logits/{label}"] = unpatchify(
        logits_BNPK, vit.input_size, vit.patch_size)

  for name in ("plain", "mask_zero"):
    rec_B = 0.0
    for label, ids_BNP in labels.items():
      loss_BNP = losses.softmax_cross_entropy(logits[label], ids_BNP)
      # Pixels without a label, of id -1, count in the mean all the same.
      counts_BNP = ids_BNP != 0 if name == "mask_zero" else None
      rec_B += jnp.mean(loss_BNP, axis=(1, 2), where=counts_BNP)
    loss_B = rec_B + beta * kl_B
    ours[f"{name}/rec"] = rec_B
    ours[f"{name}/kl"] = kl_B
    ours[f"{name}/loss"] = jnp.mean(loss_B)
  return ours["plain/loss"], ours


# ── Stage II ────────────────────────────────────────────────────────────────


def make_prior(about: Mapping[str, Any]) -> GivtPrior:
  """Our prior from the options of the original."""
  form = make_form(about, about["out_dim"])
  return make_model("lm", dict(
      dataclasses.asdict(form),
      style="givt",
      num_layers=about["num_layers"],
      decoder_layers=about["num_decoder_layers"],
      num_heads=about["num_heads"],
      mlp_dim=about["mlp_dim"],
      emb_dim=about["emb_dim"],
      patches={"size": tuple(about["patches"])},
      input_size=tuple(about["input_size"]),
      seq_len=about["seq_len"]), "config.model")


def _compare_stage_ii(file, theirs, about) -> Iterator[Quantity]:
  prior = make_prior(about)
  params = tree.unflatten(common.below(theirs, _PARAMS))
  run = jax.jit(functools.partial(_run_stage_ii, prior))
  ours, grads = run(params, theirs["image"], theirs["sequence"])
  if "means_fed_back" in theirs:
    samples = prior.sample(
        params, theirs["image"], np.arange(len(theirs["image"])), temp=0.0)
    ours["means_fed_back"] = samples.code[:, 0]
  yield from common.match(
      file, theirs, ours, inputs=["params/*", "grad/*", "image", "sequence"])
  yield from common.match_gradients(file, tree.flatten(grads), theirs)


def _run_stage_ii(prior: GivtPrior, params, image, z_BLE):
  """(our arrays by the fixture's names, the gradients of the loss)."""
  network = prior.lm.bind({"params": params})
  encoded_BND = network.encode(image)
  logits_BLV = network.logits(encoded_BND, z_BLE)
  ours = {
      "encoded": encoded_BND,
      "logits": logits_BLV,
      "nll": -prior.form.density(logits_BLV).log_prob(z_BLE),
  }

  def mean_loss(params):
    loss_B, _ = prior.loss(params, image, z_BLE)
    return jnp.mean(loss_B)

  return ours, jax.grad(mean_loss)(params)


# ── Names of published checkpoints ──────────────────────────────────────────


def compare_names(fixture: Fixture) -> Iterator[Quantity]:
  """One quantity: names, shapes and dtypes of a published checkpoint.

  Ours are those of the model that is read off the shapes. Stage I has other
  names here; so theirs are what we make of the file.
  """
  theirs = {}
  for line in fixture.path.read_text().splitlines():
    name, shape, dtype = re.fullmatch(r"(\S+) (\(.*\)) (\w+)", line).groups()
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape))
    # Of any size, it takes the memory of one number.
    zero = np.zeros((), dtype)
    theirs[_PARAMS + name] = np.broadcast_to(zero, sizes)
  if givt_files.is_stage_i(theirs):
    theirs = givt_files.rename(theirs)
  ours = _model_arrays(theirs)
  title = f"{fixture.name}: {len(theirs)} names, shapes, dtypes"
  yield Quantity(title, _lines(ours), _lines(theirs))


def _model_arrays(arrays) -> dict[str, Any]:
  """Of the model that such arrays are of: shapes by name."""
  found = {name: array.shape for name, array in arrays.items()}
  rng = jax.random.key(0)
  if shapes.kind_of(found) == "lm":
    prior = make_model("lm", shapes.stage_ii_fields(found), "config.model")
    return tree.flatten({"params": jax.eval_shape(prior.init, rng)})
  model = make_model("vit", shapes.stage_i_fields(found), "config.model")
  return tree.flatten(jax.eval_shape(model.init, rng))


def _lines(arrays) -> np.ndarray:
  """A line for each array, sorted."""
  lines = [f"{name} {tuple(array.shape)} {array.dtype}"
           for name, array in arrays.items()]
  return np.array(sorted(lines))
