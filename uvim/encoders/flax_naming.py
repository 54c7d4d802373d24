"""ViTs as the programs of Google Research save them, and as we do.

Published ViTs come in two spellings. Linen numbers the modules of a block by
kind (LayerNorm_0, LayerNorm_1, MlpBlock_0). The Flax before it numbered all of
them in one row (LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2,
MlpBlock_3) and kept the position embedding in a module of the Transformer. The
image encoder of SigLIP stands below 'img/'. Where the blocks ran as a scan, one
array holds those of all blocks ('encoderblock/…').

Source: names and shapes as in the published files.
"""

import re
from collections.abc import Iterable

import numpy as np

from uvim.encoders.base import (
  BLOCKS,
  CLASS_AND_REGISTERS,
  PARTS,
  POSITIONS,
  PREFIX,
  Found,
)
from uvim.encoders.naming import Naming
from uvim.registry import ConfigError

_BLOCK = r"(Transformer/encoderblock_\d+/)"
# (whole name, its replacement), tried in order; groups keep the rest.
_LINEN_NAMES = (
    (_BLOCK + r"LayerNorm_2(/.*)", r"\1LayerNorm_1\2"),
    (_BLOCK + r"MlpBlock_3(/.*)", r"\1MlpBlock_0\2"),
    (_BLOCK + r"MultiHeadDotProductAttention_1(/.*)",
     r"\1MultiHeadDotProductAttention_0\2"),
    (r"Transformer/(posembed_input/)?pos_embedding", "pos_embedding"),
)
_ENCODER_NAMES = (
    (r"Transformer(/.*)", r"encoder\1"),
    (r"embedding(/.*)", r"EmbedPatches\1"),
    (r"pos_embedding", POSITIONS),
)
# Heads, and the hidden layer before a head.
_HEADS = re.compile(r"(head|pre_logits|MAPHead_0)/.*|txt/.*|t|b")
_SIGLIP = re.compile(r"img/.*|MAPHead_0/.*")


class Flax(Naming):
  """A bare ViT, 'params/Transformer/…', in either spelling."""

  def is_mine(self, names: Iterable[str]) -> bool:
    beginnings = (f"{PREFIX}Transformer/", f"{PREFIX}img/Transformer/")
    return any(name.startswith(beginnings) for name in names)

  def read(self, arrays, num_heads):
    del num_heads  # The shapes say it.
    found = Found({}, resize="bilinear_corners", only="augreg")
    for full_name, array in arrays.items():
      file_name = full_name.removeprefix(PREFIX)
      if _SIGLIP.fullmatch(file_name):
        found.only = "siglip"
      # Both spellings become Linen's first, so that the rest knows only one.
      name = _rename(file_name.removeprefix("img/"), _LINEN_NAMES)
      array = _as_float32(array)
      if _HEADS.fullmatch(name):
        found.left_out.append(full_name)
      elif name == "cls":
        found.class_name = full_name
        found.class_token = array
      else:
        for part, value in _unstacked(name, array).items():
          our_name = _rename(part, _ENCODER_NAMES)
          _check_name(our_name, full_name, found.arrays)
          found.arrays[our_name] = value
      if name == "pos_embedding":
        found.positions_name = full_name
    found.positions = found.arrays.pop(POSITIONS, None)
    return found


class Own(Naming):
  """An encoder that this code has trained by itself, such as MAE's.

  Stage II's checkpoints are not meant: their encoder is a part of a model,
  which is loaded as it is.
  """

  # A new run of its kind may start from all of it, decoder or head included.
  is_bare = False

  def is_mine(self, names: Iterable[str]) -> bool:
    beginnings = {name.removeprefix(PREFIX).split("/")[0] for name in names}
    return {"encoder", "EmbedPatches"} <= beginnings and (
        "decoder" not in beginnings)

  def read(self, arrays, num_heads):
    del num_heads
    found = Found({}, resize="bilinear_corners", pixels_are_ours=True)
    for full_name, array in arrays.items():
      name = full_name.removeprefix(PREFIX)
      if name == POSITIONS:
        found.positions_name = full_name
      if name.startswith(PARTS):
        found.arrays[name] = array
      else:
        found.left_out.append(full_name)
    found.positions = found.arrays.pop(POSITIONS, None)
    # Class token and registers, which have their positions already.
    found.registers = found.arrays.pop(CLASS_AND_REGISTERS, None)
    return found


def _rename(name, rules):
  """The name after the first rule that matches all of it."""
  for pattern, replacement in rules:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, replacement, name)
  return name


def _unstacked(name, array) -> dict[str, np.ndarray]:
  """One array by its name; or one for each block, if it holds all of them."""
  stack = "Transformer/encoderblock/"
  if not name.startswith(stack) or not array.ndim:
    return {name: array}
  rest = name.removeprefix(stack)
  return {f"Transformer/encoderblock_{i}/{rest}": block
          for i, block in enumerate(array)}


def _check_name(our_name, full_name, arrays):
  """Refuses a name that is unknown, or the second spelling of another."""
  if not our_name.startswith((BLOCKS, "EmbedPatches/", POSITIONS)):
    raise ConfigError(f"{full_name!r} is no array of a ViT that is known here.")
  if our_name in arrays:
    raise ConfigError(
        f"A ViT with two spellings: {full_name!r} and another array would "
        f"both be {PREFIX + our_name!r}.")


def _as_float32(array):
  return np.asarray(array, np.float32)
