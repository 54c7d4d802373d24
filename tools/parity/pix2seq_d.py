"""Fixtures of Pix2Seq-D's network, of its sampling, and of all together.

B batch · H W places of a map · N tokens · D width · T frames of a video
n analog bits · G groups of bits · K classes of a group

Training-mode batch norms are not compared: this code has none, see
`FrozenBatchNorm`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common
from tools.parity.common import Quantity, below
from tools.parity.diffusion import read
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.diffusion import bits, schedules, steps
from uvim.models import make_model
from uvim.models.pix2seq_d import sampling, video, waves
from uvim.models.pix2seq_d.encoder import ResNetTransformer
from uvim.models.pix2seq_d.model import Drawn, Pix2SeqD
from uvim.models.pix2seq_d.pyramid import FeaturePyramidMerge
from uvim.models.pix2seq_d.resnet import ResNet
from uvim.models.pix2seq_d.transunet import TransUNet

# The fixtures' own tolerances.
_FORWARD = 1e-4
_GRADIENT = 1e-3
_FINAL = 2e-4
_INPUTS = 2e-3
# The share of a sampled mask that may differ: a bit near 0 may go either way.
_SHARE_OF_MASK = 1e-3

_TRAINING_MODE = "train/*"
_SAMPLERS = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "ddpm@large": "ddpm",
    "ddpm@small": "ddpm_small",
}


def _match(file, theirs, ours, *, tolerance=_FORWARD, inputs=()):
  quantities = common.match(
      file, theirs, ours, inputs=inputs, informative=[_TRAINING_MODE])
  for quantity in quantities:
    yield dataclasses.replace(quantity, tolerance=tolerance)


def _apply(network, params, *args):
  return jax.jit(network.apply)({"params": params}, *args)


# ── Image encoder and pyramid ───────────────────────────────────────────────


def compare_encoder(fixture: Fixture) -> Iterator[Quantity]:
  """ResNet, transformer and the pyramid at several sizes."""
  theirs = read(fixture)
  fields = _encoder_fields(below(theirs, "params/"))
  params = tree.unflatten(below(theirs, "params/rest/"))
  resnet = ResNet(fields["resnet_width"], norm="frozen_batch")
  maps = _apply(resnet, params["resnet"], theirs["image"])
  encoded = _apply(_make_encoder(fields), params, theirs["image"])
  _, rows, columns, _ = encoded.maps[-1].shape
  ours = {
      "eval/C2": maps[0],
      "eval/C3": maps[1],
      "eval/C4": maps[2],
      "eval/encoded": encoded.tokens,
      "pos_emb": waves.of_grid((rows, columns), fields["encoder_dim"])[0],
  }
  for name, value in theirs.items():
    case, is_out, _ = name.partition("/out")
    if is_out:
      size = value.shape[1:3]
      merge = FeaturePyramidMerge(value.shape[-1], size)
      case_params = below(theirs, f"{case}/params/encoder_fuse/")
      ours[name] = _apply(merge, tree.unflatten(case_params), encoded.maps)
  yield from _match(
      fixture.name, theirs, ours,
      inputs=["image", "params/*", "fuse_*/params/*"])


def _encoder_fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Fields of `config.model` that the arrays of an encoder tell."""
  block = "rest/transformer_encoder/transformer_encoder"
  dim, num_heads, _ = arrays[f"{block}/mha/query/kernel"].shape
  stem = arrays["rest/resnet/stem_conv2d_fixed_padding/conv2d/kernel"]
  depth = 0
  for name in arrays:
    if name.startswith(block) and name.endswith("mha/query/kernel"):
      depth += 1
  return {
      "norm": "frozen_batch",
      "resnet_width": stem.shape[-1],
      "encoder_dim": dim,
      "encoder_depth": depth,
      "encoder_heads": num_heads,
      "encoder_mlp_dim": arrays[f"{block}/mlp/ffn/dense1/bias"].size,
  }


def _make_encoder(fields: Mapping[str, Any]) -> ResNetTransformer:
  return ResNetTransformer(
      resnet_width=fields["resnet_width"],
      resnet_blocks=(3, 4, 6),
      stem="large",
      norm=fields["norm"],
      width=fields["encoder_dim"],
      depth=fields["encoder_depth"],
      mlp_dim=fields["encoder_mlp_dim"],
      num_heads=fields["encoder_heads"])


# ── Mask decoder ────────────────────────────────────────────────────────────


def compare_decoder(fixture: Fixture) -> Iterator[Quantity]:
  """Forward pass and gradients of a mask decoder."""
  theirs = read(fixture)
  options = fixture.read_meta()["constructor"]
  network = _make_decoder(options)
  prefix = "params/denoiser/"
  params = tree.unflatten(below(theirs, prefix))
  tokens = theirs["encoded"] if options["conditioning"] else None
  cotangent = theirs["cotangent"]

  def scalar(params):
    numbers = network.apply(
        {"params": params}, theirs["x"], theirs["gamma"], tokens)
    product = numbers.reshape(cotangent.shape) * cotangent
    return jnp.sum(product) / cotangent.size, numbers

  differentiate = jax.jit(jax.value_and_grad(scalar, has_aux=True))
  (_, numbers), grads = differentiate(params)
  ours = {"out": numbers}
  num_groups = options["outp_softmax_groups"]
  if num_groups:
    ours["logits"] = bits.split_groups(numbers, num_groups)
    ours["out"] = bits.expected_bits(ours["logits"], options["b_scale"])
  ours["time_emb"] = network.apply(
      {"params": params}, theirs["gamma"], method="embed_time")
  yield from _match(
      fixture.name, theirs, ours,
      inputs=["params/*", "grad/*", "grad_norm/*", "x", "gamma", "encoded",
              "cotangent"])
  yield from _match_gradients(fixture.name, theirs, tree.flatten(grads))


def _match_gradients(file, theirs, grads) -> Iterator[Quantity]:
  """Whole gradients of small arrays, and the norms of all."""
  ours = {}
  for name, grad in grads.items():
    ours[f"denoiser/{name}"] = grad
  small = {name: ours.get(name) for name in below(theirs, common.GRADIENTS)}
  for quantity in common.match_gradients(file, small, theirs):
    yield dataclasses.replace(quantity, tolerance=_GRADIENT)
  norms = below(theirs, "grad_norm/")
  least_scale = max(map(float, norms.values())) / 100
  for name, norm in norms.items():
    yield Quantity(
        f"{file}/grad_norm/{name}", jnp.linalg.norm(ours[name].ravel()), norm,
        scale=max(float(norm), least_scale), tolerance=_GRADIENT)


def _make_decoder(options: Mapping[str, Any]) -> TransUNet:
  num_groups = options["outp_softmax_groups"]
  num_outputs = options["out_dim"]
  if num_groups:
    num_outputs = num_groups * 2**(num_outputs // num_groups)
  return TransUNet(
      num_outputs=num_outputs,
      dim=options["dim"],
      channel_multipliers=tuple(options["ch_multipliers"]),
      num_blocks=tuple(options["n_res_blocks"]),
      bottom_dim=options["transformer_dim"],
      bottom_depth=options["transformer_blocks"],
      head_size=options["per_head_dim"],
      bottom_stride=options["transformer_strides"],
      time_scaling=options["time_scaling"],
      in_side=options["in_kernel_size"],
      out_side=options["out_kernel_size"],
      attention_rows=tuple(options["mhsa_resolutions"]))


# ── All together ────────────────────────────────────────────────────────────


def compare_model(fixture: Fixture) -> Iterator[Quantity]:
  """A loss, and masks from given noise."""
  theirs = read(fixture)
  meta = fixture.read_meta()
  model, params = _read_model(meta, theirs)
  # The original's images are in [0, 1].
  seen = model.encode_image(params, theirs["image"] * 2 - 1)
  ours = jax.jit(_losses, static_argnums=0)(model, params, seen, theirs)
  for case in {name.rpartition("/")[0] for name in theirs}:
    if case.startswith("infer/"):
      ours |= _masks(case, model, params, seen, theirs)
  inputs = ["image", "label_map", "noise", "t", "infer/x_T", "params/*"]
  for quantity in _match(fixture.name, theirs, ours, inputs=inputs):
    if quantity.name.endswith("/bits"):
      quantity = dataclasses.replace(quantity, tolerance=_FINAL)
    if quantity.name.endswith("/map"):
      quantity = _forgive_few(quantity)
    yield quantity


def _read_model(meta, theirs) -> tuple[Pix2SeqD, dict[str, Any]]:
  """Our model of the fixture, and its parameters."""
  arrays = {}
  for name, value in below(theirs, "params/").items():
    # PART/NAME, where NAME begins with the part, too.
    _, _, name = name.partition("/")
    arrays[name] = value
  decoder = meta["decoder"]
  # Ours has as many blocks at every level.
  (num_blocks,) = set(decoder["n_res_blocks"])
  fields = _encoder_fields(arrays) | {
      "input_size": meta["image"],
      "mask_size": meta["mask"],
      "num_classes": meta["num_classes"],
      "num_ids": meta["max_instances"],
      "num_bits": meta["n_bits"],
      "input_scale": meta["b_scale"],
      "weight_power": meta["mask_weight_p"],
      "fuse_dim": meta["fuse_dim"],
      "decoder_dim": decoder["dim"],
      "channel_multipliers": decoder["ch_multipliers"],
      "decoder_blocks": num_blocks,
      "bottom_dim": decoder["transformer_dim"],
      "bottom_depth": decoder["transformer_blocks"],
      "bottom_heads": decoder["transformer_dim"] // decoder["per_head_dim"],
      "time_scaling": decoder["time_scaling"],
  }
  return make_model("pix2seq_d", fields, "fixture"), tree.unflatten(arrays)


def _losses(model, params, seen, theirs) -> dict[str, jax.Array]:
  """What the original computes for a step, in evaluation mode."""
  network = model.network
  labels = theirs["label_map"]
  masks = model.encode_labels(labels)
  level = schedules.level_at(theirs["t"], network.schedule)
  signal_B111 = level.signal[:, None, None, None]
  noise_B111 = level.noise[:, None, None, None]
  noisy = steps.corrupt(
      masks, theirs["noise"], schedules.Level(signal_B111, noise_B111))
  features = network.apply(
      {"params": params}, seen, noisy, level.signal, method="features")
  numbers = network.apply({"params": params}, features, method="head")
  loss_B, _ = model.loss(
      params, seen, Drawn(labels, theirs["t"], theirs["noise"]))
  return {
      "weight": model.pixel_weights(labels),
      "masks": masks,
      "xt": noisy,
      "eval/logits": bits.split_groups(numbers, 2),
      "eval/loss": jnp.mean(loss_B),
  }


def _masks(case, model, params, seen, theirs) -> dict[str, jax.Array]:
  """Bits and map of `infer/N_TD`: N steps with the time difference TD."""
  num_steps, time_difference = case.removeprefix("infer/").split("_")

  def generate(params, seen, start):
    def denoise(noisy, level, _):
      return model.denoise(params, seen, noisy, level)

    return sampling.generate(
        denoise,
        lambda draw: start,
        num_steps=int(num_steps),
        time_difference=float(time_difference),
        sampler="ddim",
        schedule=model.network.schedule)

  analog = jax.jit(generate)(params, seen, theirs["infer/x_T"])
  return {f"{case}/bits": analog, f"{case}/map": model.decode_bits(analog)}


def _forgive_few(quantity: Quantity) -> Quantity:
  """A mask that differs in few pixels counts as the expected one."""
  if quantity.ours is None:
    return quantity
  is_different = np.any(quantity.ours != quantity.theirs, axis=-1)
  note = f"{is_different.sum()} of {is_different.size} pixels differ"
  ours = quantity.ours
  if is_different.mean() <= _SHARE_OF_MASK:
    ours = quantity.theirs
  return dataclasses.replace(quantity, ours=ours, note=note)


# ── Sampling without a network ──────────────────────────────────────────────


def compare_trajectory(fixture: Fixture) -> Iterator[Quantity]:
  """Whole samplings with a function in place of the network."""
  theirs = read(fixture)
  meta = fixture.read_meta()
  for case in meta["cases"]:
    title = f"{fixture.name}/{case['case']}"
    arrays = below(theirs, f"{case['case']}/")
    ours = _trajectory(case, meta["b"], theirs, arrays["noise"])
    for quantity in _match(title, arrays, ours, inputs=["noise"]):
      is_input = quantity.name.endswith("/inputs")
      tolerance = _INPUTS if is_input else _FINAL
      yield dataclasses.replace(quantity, tolerance=tolerance)


def _trajectory(case, scale, stub, noise) -> dict[str, np.ndarray]:
  """What the stub is given at every step, and the result."""
  inputs = []
  gammas = []

  def denoise(noisy, level, _):
    inputs.append(noisy)
    gammas.append(level.signal)
    of_gamma = (stub["v"] * level.signal)[None, None, None]
    raw = jnp.tanh(noisy @ stub["W"] + of_gamma + stub["cond"])
    return jnp.clip(1.3 * scale * raw, -scale, scale)

  # So the loop is one of Python, and the stub sees numbers.
  with jax.disable_jit():
    final = sampling.generate(
        denoise,
        lambda draw: jnp.asarray(noise[draw]),
        num_steps=case["iterations"],
        time_difference=case["td"],
        sampler=_SAMPLERS[case["sampler"]],
        schedule=case["schedule"])
  return {
      "inputs": np.stack(inputs),
      "gammas": np.stack(gammas),
      "final": final,
  }


def compare_video(fixture: Fixture) -> Iterator[Quantity]:
  """Frames of a video in turn, with a function in place of the model."""
  theirs = read(fixture)
  meta = fixture.read_meta()
  frames_before = len(meta["proceeding_frames"])
  sizes = (meta["num_classes"], meta["max_instances"])
  ours = {}

  def label_frame(index, frame, before):
    condition = bits.encode_map(
        before, frames_before * meta["n_bits"], meta["b"])
    ours[f"cond/{index}"] = condition
    mixed = frame @ theirs["W1"] + 5 * condition @ theirs["W2"]
    return bits.decode_map(meta["b"] * jnp.tanh(mixed), sizes)

  frames_TBHWC = np.moveaxis(theirs["frames"], 1, 0)
  void = jnp.zeros((*frames_TBHWC.shape[1:4], len(sizes)), jnp.int32)
  labels = video.stream(label_frame, frames_TBHWC, void, frames_before)
  ours["out"] = np.stack(list(labels), axis=1)
  yield from _match(
      fixture.name, theirs, ours, inputs=["frames", "W1", "W2"])


# ── Names ───────────────────────────────────────────────────────────────────


def compare_names(fixture: Fixture) -> Iterator[Quantity]:
  """Names and shapes of the published model's arrays, by shapes alone.

  A line has a name, a shape and a dtype.
  """
  theirs = set(fixture.path.read_text().split("\n")) - {""}
  fields = {
      "input_size": (1024, 1024),
      "mask_size": (512, 512),
      "num_classes": 134,
      "num_ids": 101,
  }
  model = make_model("pix2seq_d", fields, "fixture")
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  ours = set()
  for name, array in tree.flatten(shapes).items():
    ours.add(f"{name} {tuple(array.shape)} {array.dtype.name}")
  different = sorted(theirs ^ ours)
  note = f"differ: {', '.join(different[:3])} …" if different else ""
  title = f"{fixture.name}: {len(theirs)} names, shapes, dtypes"
  yield Quantity(
      title, np.array(sorted(ours)), np.array(sorted(theirs)), note=note)
