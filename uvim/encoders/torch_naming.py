"""ViTs as timm and transformers save them.

D width · A heads · H head size

Kernels of PyTorch are [out, in], and those of a convolution [out, in, height,
width]. Names are those of the files; transformers 5 has others in memory.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from uvim.encoders.base import BIAS, BLOCKS, KERNEL, PREFIX, Arrays, Found
from uvim.encoders.naming import Naming
from uvim.registry import ConfigError

_ATTENTION = "MultiHeadDotProductAttention_0"
_MLP = "MlpBlock_0"
# The three projections in one array, in this order.
_QKV = "query, key, value"


@dataclasses.dataclass(frozen=True)
class Torch(Naming):
  """A program's names, as tables.

  Attributes:
    sign: a regular expression; a file with such a name is of this program.
    outer: what may stand before all names of the ViT, where it is a part of a
      larger model.
    block: a regular expression for the beginning of a block's names, with one
      group for its number.
    modules: name of a module → ours.
    block_modules: likewise, within a block.
    scales: within a block, (name of the attention's layer scale, the MLP's).
    class_token, registers, positions: names. No array has the name "", which
      stands for what a program lacks.
    heads: a regular expression for the names of what is left out.
    resize: how the program resizes positions, a key of `positions.METHODS`.
    resize_with_registers: likewise, where there are registers.
  """
  sign: str
  outer: tuple[str, ...]
  block: str
  modules: Mapping[str, str]
  block_modules: Mapping[str, str]
  scales: tuple[str, str]
  class_token: str
  registers: str
  positions: str
  heads: str
  resize: str
  resize_with_registers: str = "bicubic_antialias"

  def is_mine(self, names: Iterable[str]) -> bool:
    sign = re.compile(f"{PREFIX}(.*\\.)?{self.sign}")
    return any(sign.fullmatch(name) for name in names)

  def read(self, arrays, num_heads):
    found = Found({}, resize=self.resize)
    outer = self._outer_name(arrays)
    unknown = []
    for full_name, array in arrays.items():
      file_name = full_name.removeprefix(PREFIX)
      name = file_name.removeprefix(outer)
      is_head = re.fullmatch(self.heads, name) is not None
      if is_head or not file_name.startswith(outer):
        found.left_out.append(full_name)
        if file_name.startswith("decoder.decoder_"):
          found.only = "mae"
      elif not self._take(found, name, array, num_heads):
        unknown.append(file_name)
    if unknown:
      raise ConfigError(
          f"{unknown[0]!r} and {len(unknown) - 1} other arrays are no part of "
          "a ViT that is known here.")
    if found.registers is not None:
      found.resize = self.resize_with_registers
    _add_bias(found)
    if found.class_token is None:
      found.only = "siglip"
    return found

  def _outer_name(self, arrays: Arrays) -> str:
    """What stands before the names of the ViT."""
    patches = _patch_module(self.modules)
    for outer in self.outer:
      if f"{PREFIX}{outer}{patches}.weight" in arrays:
        return outer
    return ""

  def _take(self, found: Found, name: str, array, num_heads: int) -> bool:
    """Adds one array to what is found. Returns whether its name is known."""
    array = np.asarray(array, np.float32)
    if not array.size:
      raise ConfigError(f"{name!r} of shape {list(array.shape)} is empty.")
    if name == self.class_token:
      found.class_name = f"{PREFIX}{name}"
      found.class_token = array.reshape(1, 1, -1)
      return True
    if name == self.registers:
      found.registers = _with_batch_axis(array, name)
      return True
    if name == self.positions:
      found.positions_name = f"{PREFIX}{name}"
      found.positions = _with_batch_axis(array, name)
      return True
    module, _, part = name.rpartition(".")
    if part in ("weight", "bias") and module in self.modules:
      layer = self.modules[module]
      found.arrays |= _layer(layer, part, array, num_heads)
      return True
    return self._take_of_block(found, name, array, num_heads)

  def _take_of_block(self, found, name, array, num_heads) -> bool:
    begins_as_block = re.match(self.block, name)
    if not begins_as_block:
      return False
    block = int(begins_as_block[1])
    rest = name.removeprefix(begins_as_block[0])
    for scale, scales in zip(
        self.scales, (found.attention_scales, found.mlp_scales), strict=True):
      if rest == scale:
        scales[block] = array
        return True
    module, _, part = rest.rpartition(".")
    if part not in ("weight", "bias") or module not in self.block_modules:
      return False
    our_block = f"{BLOCKS}encoderblock_{block}"
    layer = f"{our_block}/{self.block_modules[module]}"
    found.arrays |= _layer(layer, part, array, num_heads)
    return True


def _patch_module(modules):
  """The file's name of the patch embedding."""
  for module, ours in modules.items():
    if ours == "EmbedPatches":
      return module
  raise ValueError("a naming without patches")


def _with_batch_axis(array, name):
  """[1, N, D] of an array that may lack the first axis."""
  if array.ndim == 2:
    array = array[None]
  if array.ndim != 3 or len(array) != 1:
    raise ConfigError(f"{name!r} has shape {list(array.shape)}; expected "
                      "[1, tokens, width].")
  return array


def _add_bias(found):
  """CLIP's patch embedding has no bias: zeros are one."""
  if found.has_pre_norm and KERNEL in found.arrays:
    width = found.arrays[KERNEL].shape[-1]
    found.arrays.setdefault(BIAS, np.zeros(width, np.float32))


# ── One array of PyTorch → ours ─────────────────────────────────────────────


def _layer(layer: str, part: str, array, num_heads: int) -> dict:
  """Our arrays by name of the kernel or bias of one layer."""
  if layer.endswith(_QKV):
    return _fused(layer, part, array, num_heads)
  kind = layer.rpartition("/")[2]
  if kind in ("query", "key", "value"):
    array = _into_heads(array, part, num_heads)
  elif kind == "out" and part == "weight":
    # [D, A·H] → [A, H, D].
    _check_axes(array, 2, layer)
    _check_heads(array.shape[1], num_heads)
    array = array.T.reshape(num_heads, -1, len(array))
  elif kind == "EmbedPatches" and part == "weight":
    # [D, C, height, width] → [height, width, C, D].
    _check_axes(array, 4, layer)
    array = array.transpose(2, 3, 1, 0)
  elif kind.startswith("Dense") and part == "weight":
    _check_axes(array, 2, layer)
    array = array.T
  our_part = part
  if part == "weight":
    our_part = "scale" if "norm" in kind.lower() else "kernel"
  return {f"{layer}/{our_part}": array}


def _fused(layer, part, array, num_heads):
  """The three projections that one array holds, one below the other."""
  if array.ndim == 0 or len(array) % 3:
    raise ConfigError(f"{layer!r} has shape {list(array.shape)}; its first "
                      "axis must hold query, key and value.")
  beginning = layer.removesuffix(_QKV)
  arrays = {}
  thirds = np.split(array, 3)
  for kind, third in zip(("query", "key", "value"), thirds, strict=True):
    arrays |= _layer(beginning + kind, part, third, num_heads)
  return arrays


def _into_heads(array, part, num_heads):
  """[D, A, H] of a kernel [A·H, D]; [A, H] of a bias."""
  _check_axes(array, 2 if part == "weight" else 1, "a projection")
  _check_heads(len(array), num_heads)
  if part == "bias":
    return array.reshape(num_heads, -1)
  return array.T.reshape(array.shape[1], num_heads, -1)


def _check_heads(size, num_heads):
  if size % num_heads:
    raise ConfigError(f"num_heads = {num_heads} does not divide the width "
                      f"{size} of the file's attention.")


def _check_axes(array, number, what):
  if array.ndim != number:
    raise ConfigError(f"{what} has shape {list(array.shape)}; expected "
                      f"{number} axes.")


# ── The programs ────────────────────────────────────────────────────────────

TIMM = Torch(
    sign=r"patch_embed\.proj\.weight",
    outer=(),
    block=r"blocks\.(\d+)\.",
    modules={
        "patch_embed.proj": "EmbedPatches",
        "norm_pre": "encoder_pre_norm",
        "norm": f"{BLOCKS}encoder_norm",
    },
    block_modules={
        "norm1": "LayerNorm_0",
        "attn.qkv": f"{_ATTENTION}/{_QKV}",
        "attn.proj": f"{_ATTENTION}/out",
        "norm2": "LayerNorm_1",
        "mlp.fc1": f"{_MLP}/Dense_0",
        "mlp.fc2": f"{_MLP}/Dense_1",
    },
    scales=("ls1.gamma", "ls2.gamma"),
    class_token="cls_token",
    registers="reg_token",
    positions="pos_embed",
    heads=r"mask_token|(head|head_drop|fc_norm|attn_pool|pre_logits)\..*",
    resize="bicubic_antialias")

# ViT, DeiT, DINO, MAE, and DINOv2 with other names for the same layers.
HF_VIT = Torch(
    sign=r"embeddings\.patch_embeddings\.projection\.weight",
    outer=("vit.", "dinov2.", "dinov2_with_registers.", "deit.", "backbone."),
    block=r"encoder\.layer\.(\d+)\.",
    modules={
        "embeddings.patch_embeddings.projection": "EmbedPatches",
        "layernorm": f"{BLOCKS}encoder_norm",
    },
    block_modules={
        "layernorm_before": "LayerNorm_0",
        "norm1": "LayerNorm_0",
        "attention.attention.query": f"{_ATTENTION}/query",
        "attention.attention.key": f"{_ATTENTION}/key",
        "attention.attention.value": f"{_ATTENTION}/value",
        "attention.output.dense": f"{_ATTENTION}/out",
        "layernorm_after": "LayerNorm_1",
        "norm2": "LayerNorm_1",
        "intermediate.dense": f"{_MLP}/Dense_0",
        "mlp.fc1": f"{_MLP}/Dense_0",
        "output.dense": f"{_MLP}/Dense_1",
        "mlp.fc2": f"{_MLP}/Dense_1",
    },
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
    positions="embeddings.position_embeddings",
    heads=r"embeddings\.mask_token|(pooler|classifier|decoder)\..*",
    resize="bicubic")

HF_CLIP = Torch(
    sign=r"embeddings\.patch_embedding\.weight",
    outer=("vision_model.",),
    block=r"encoder\.layers\.(\d+)\.",
    modules={
        "embeddings.patch_embedding": "EmbedPatches",
        "pre_layrnorm": "encoder_pre_norm",
        "post_layernorm": f"{BLOCKS}encoder_norm",
    },
    block_modules={
        "layer_norm1": "LayerNorm_0",
        "self_attn.q_proj": f"{_ATTENTION}/query",
        "self_attn.k_proj": f"{_ATTENTION}/key",
        "self_attn.v_proj": f"{_ATTENTION}/value",
        "self_attn.out_proj": f"{_ATTENTION}/out",
        "layer_norm2": "LayerNorm_1",
        "mlp.fc1": f"{_MLP}/Dense_0",
        "mlp.fc2": f"{_MLP}/Dense_1",
    },
    scales=("", ""),
    class_token="embeddings.class_embedding",
    registers="",
    positions="embeddings.position_embedding.weight",
    heads=r"head\..*|embeddings\.position_ids",
    resize="bicubic")
