"""Fixtures of masked autoencoders: masks, predictions, losses, gradients.

B images · N patches · R prefix tokens · D width

A fixture `enc_vit_mae….npz` has its parameters in a `.safetensors` file of the
same name, under the names of the Hugging Face hub, and its sizes in
`encoders.json`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tools.parity import common, encoders, fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.models import mae, mae_network
from uvim.nn.backbones.base import Style

# How the hub names the parts of a block → our names.
_PARTS = {
    "attention.attention.query": "MultiHeadDotProductAttention_0/query",
    "attention.attention.key": "MultiHeadDotProductAttention_0/key",
    "attention.attention.value": "MultiHeadDotProductAttention_0/value",
    "attention.output.dense": "MultiHeadDotProductAttention_0/out",
    "intermediate.dense": "MlpBlock_0/Dense_0",
    "output.dense": "MlpBlock_0/Dense_1",
    "layernorm_before": "LayerNorm_0",
    "layernorm_after": "LayerNorm_1",
}
# Modules outside of the blocks.
_MODULES = {
    "vit.embeddings.patch_embeddings.projection": "EmbedPatches",
    "vit.layernorm": "encoder/encoder_norm",
    "decoder.decoder_embed": "mae_decoder/decoder_embed",
    "decoder.decoder_norm": "mae_decoder/blocks/encoder_norm",
    "decoder.decoder_pred": "mae_decoder/decoder_pred",
}
_TOKENS = {
    "vit.embeddings.cls_token": "encoder_prefix",
    "decoder.mask_token": "mae_decoder/mask_token",
}
# The fixed waves. Their first place is that of the class token.
_POSITIONS = {
    "vit.embeddings.position_embeddings": "pos_embedding_encoder",
    "decoder.decoder_pos_embed": "mae_decoder/decoder_pos_embed",
}
_BLOCK = re.compile(r"(vit\.encoder\.layer|decoder\.decoder_layers)\.(\d+)\."
                    r"(.+)\.(weight|bias)")
_STACKS = {
    "vit.encoder.layer": "encoder",
    "decoder.decoder_layers": "mae_decoder/blocks",
}


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Every quantity of one fixture."""
  theirs = fixtures.read_arrays(fixture.path)
  about = encoders.read_index(fixture)
  stored = _read_parameters(fixture)
  network = _make_network(about)
  params = _our_parameters(stored, network)
  image = np.moveaxis(theirs["pixels"], 1, -1)
  # The encoder as trainings load it; below it is a part of the whole.
  yield from encoders.compare(fixture)
  yield from _compare_positions(fixture.name, stored, network)
  yield from _compare_outputs(
      fixture.name, theirs, network, params, image)
  for norm_pix_loss in (False, True):
    yield from _compare_training(
        fixture.name, theirs, network.clone(norm_pix_loss=norm_pix_loss),
        params, image)


# ── The model of a fixture ──────────────────────────────────────────────────


def _read_parameters(fixture: Fixture) -> dict[str, np.ndarray]:
  """The parameters under the hub's names."""
  from safetensors import numpy as safetensors
  return safetensors.load_file(fixture.path.with_suffix(".safetensors"))


def _make_network(about: Mapping[str, Any]) -> mae_network.MAE:
  """Our network of these sizes."""
  sizes = about["sizes"]
  # One number for a square.
  side = np.broadcast_to(sizes["image_size"], (2,)).tolist()
  patch = np.broadcast_to(sizes["patch_size"], (2,)).tolist()
  style = Style(
      gelu=encoders.gelu_of(about),
      norm_epsilon=about["eps"],
      num_prefix=1)

  class StyledMAE(mae_network.MAE):
    """With the epsilon of the fixture, which no config can choose."""

    @property
    def style(self):
      return style

  return StyledMAE(
      input_size=tuple(side),
      patch_size=tuple(patch),
      width=sizes["hidden_size"],
      depth=sizes["num_hidden_layers"],
      mlp_dim=sizes["intermediate_size"],
      num_heads=sizes["num_attention_heads"],
      mask_ratio=about["mask_ratio"],
      norm_pix_loss=False,
      decoder_embed_dim=sizes["decoder_hidden_size"],
      decoder_depth=sizes["decoder_num_hidden_layers"],
      decoder_num_heads=sizes["decoder_num_attention_heads"],
      decoder_mlp_dim=sizes["decoder_intermediate_size"])


def _our_parameters(stored, network):
  """The parameters of a fixture as ours."""
  trained = dict(stored)
  fixed = {}
  for name, our_name in _POSITIONS.items():
    # Without the place of the class token, where zeros stand.
    fixed[our_name] = trained.pop(name)[:, 1:]
  return tree.unflatten(_renamed(trained, network) | fixed)


def _renamed(theirs, network) -> dict[str, np.ndarray]:
  """Parameters or gradients under our names, in our shapes.

  Only axes move and split, so that the shapes of gradients are those of their
  parameters.
  """
  shapes = tree.flatten(jax.eval_shape(
      mae.MaskedAutoencoder(network).init, jax.random.key(0)))
  ours = {}
  for name, array in theirs.items():
    our_name = _our_name(name)
    ours[our_name] = _our_axes(name, array).reshape(shapes[our_name].shape)
  return ours


def _our_name(name: str) -> str:
  """Our name of a parameter."""
  if name in _TOKENS:
    return _TOKENS[name]
  found = _BLOCK.fullmatch(name)
  if found:
    stack, number, part, kind = found.groups()
    module = f"{_STACKS[stack]}/encoderblock_{number}/{_PARTS[part]}"
  else:
    their_module, _, kind = name.rpartition(".")
    module = _MODULES[their_module]
  if kind == "bias":
    return f"{module}/bias"
  is_norm = "norm" in module.lower().rpartition("/")[2]
  return f"{module}/scale" if is_norm else f"{module}/kernel"


def _our_axes(name: str, array: np.ndarray) -> np.ndarray:
  """The axes of an array in our order."""
  # A convolution: [D, C, rows, columns]. A map: [outputs, inputs].
  if array.ndim == 4:
    return array.transpose(2, 3, 1, 0)
  if array.ndim == 2:
    return array.T
  return array


# ── Quantities ──────────────────────────────────────────────────────────────


def _compare_positions(file, stored, network) -> Iterator[Quantity]:
  """Our waves, with zeros in front for the class token."""
  for name in _POSITIONS:
    theirs = stored[name]
    width = theirs.shape[-1]
    waves_1ND = np.asarray(mae_network.waves(network.grid_size, width))
    no_position = np.zeros((1, 1, width), np.float32)
    ours = np.concatenate([no_position, waves_1ND], axis=1)
    # The library leaves the decoder's at zero until a checkpoint is loaded.
    is_empty = not theirs.any()
    yield Quantity(
        f"{file}/{name}", ours, theirs, informative=is_empty,
        note="all zeros" if is_empty else "")


def _compare_outputs(file, theirs, network, params, image
                     ) -> Iterator[Quantity]:
  """Mask, order, features and predictions for the fixture's noise."""
  noise_BN = theirs["noise"]
  model = mae.MaskedAutoencoder(network)
  order = mae_network.order_patches(noise_BN)
  ours = {
      "mask": model.mask(noise_BN),
      "ids_restore": order.places_BN,
      "visible_features": network.apply(
          {"params": params}, image, order, method="encode_seen"),
      "pred": model.predict(params, image, noise_BN),
      "target": model.target(image),
  }
  yield from common.match(
      file, theirs, ours,
      inputs=["pixels", "noise", "features", "plain/*", "norm_pix/*"])


def _compare_training(file, theirs, network, params, image
                      ) -> Iterator[Quantity]:
  """One of the two losses, and its gradients."""
  kind = "norm_pix" if network.norm_pix_loss else "plain"
  theirs_of_kind = common.below(theirs, f"{kind}/")
  model = mae.MaskedAutoencoder(network)

  def mean_loss(params):
    return model.loss(params, image, theirs["noise"]).mean()

  loss, grads = jax.jit(jax.value_and_grad(mean_loss))(params)
  yield from common.match(
      f"{file}/{kind}", theirs_of_kind, {"loss": loss}, inputs=["grad/*"])
  their_grads = _renamed(
      common.below(theirs_of_kind, common.GRADIENTS), network)
  our_grads = tree.flatten(grads)
  # The original has no gradient of its fixed waves.
  for name in mae_network.FIXED:
    del our_grads[name]
  prefixed = {common.GRADIENTS + name: grad
              for name, grad in their_grads.items()}
  yield from common.match_gradients(f"{file}/{kind}", our_grads, prefixed)
