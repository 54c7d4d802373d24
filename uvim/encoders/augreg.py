"""ViTs in the layout of "How to train your ViT?" (AugReg), as encoders.

H W rows and columns of the new grid · D width

Published ViTs come in two spellings. Linen numbers the modules of a block by
kind (LayerNorm_0, LayerNorm_1, MlpBlock_0). The Flax before it numbered all of
them in one row (LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2,
MlpBlock_3) and kept the position embedding in a module of the Transformer.

Source: the released UViM, whose stage II starts from ViT-L/16 in this way;
names and shapes as in the published ViT files.
"""

import math
import re
from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from uvim.encoders.base import POSITIONS, PREFIX, Arrays, Encoder, Grid
from uvim.registry import ConfigError
from uvim.typing import Float

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
    (r"pos_embedding", "pos_embedding_encoder"),
)
# The encoder has no class token, no head and no hidden layer before a head.
_CLASSIFIER = re.compile(r"cls|(head|pre_logits)/.*")


class AugReg(Encoder):
  """A bare ViT, 'params/Transformer/…', in either spelling."""

  def is_mine(self, names: Iterable[str]) -> bool:
    return any(name.startswith(f"{PREFIX}Transformer/") for name in names)

  def to_ours(
      self,
      arrays: Arrays,
      grid: Grid | None,
  ) -> tuple[dict[str, np.ndarray], list[str]]:
    ours = {}
    left_out = []
    for full_name, array in arrays.items():
      file_name = full_name.removeprefix(PREFIX)
      # Both spellings become Linen's first, so that the rest knows only one.
      name = _rename(file_name, _LINEN_NAMES)
      is_unused_position = name == "pos_embedding" and not grid
      if _CLASSIFIER.fullmatch(name) or is_unused_position:
        left_out.append(full_name)
        continue
      our_name = PREFIX + _rename(name, _ENCODER_NAMES)
      if our_name in ours:
        raise ConfigError(
            f"A ViT with two spellings: {full_name!r} and another array would "
            f"both be {our_name!r}.")
      ours[our_name] = array
    if grid and POSITIONS in ours:
      ours[POSITIONS] = _fit_positions(ours[POSITIONS], tuple(grid))
    return ours, left_out


def _rename(name, rules):
  """The name after the first rule that matches all of it."""
  for pattern, replacement in rules:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, replacement, name)
  return name


def _fit_positions(old_1ND, grid):
  """The ViT's position embedding [1, (class token +) N, D] on `grid`."""
  _, num_tokens, _ = old_1ND.shape
  # No two square numbers follow each other: if all tokens but one make a
  # square, the first one is the class token.
  if math.isqrt(num_tokens - 1) ** 2 == num_tokens - 1:
    old_1ND = old_1ND[:, 1:]
    num_tokens -= 1
  side = math.isqrt(num_tokens)
  if side ** 2 != num_tokens:
    raise ConfigError(
        f"A ViT's position embedding of {num_tokens} tokens; expected a square "
        "grid, with or without a class token.")
  return resample_grid(old_1ND, (side, side), grid)


def resample_grid(
    old_1ND: Float[np.ndarray, "1 N D"],
    old: Grid,
    new: Grid,
) -> Float[np.ndarray, "1 M D"]:
  """Bilinear resize of a grid of (rows, columns), row-major.

  The corners of both grids coincide, as in the released model, so the outermost
  patches keep their embeddings. Equal grids come back untouched.
  """
  if old == new:
    return old_1ND
  old_rows, old_columns = old
  new_rows, new_columns = new
  old_HWD = old_1ND.reshape(old_rows, old_columns, -1)
  factors = (new_rows / old_rows, new_columns / old_columns, 1)
  # scipy's default mode would read zeros where rounding leaves the grid.
  new_HWD = ndimage.zoom(old_HWD, factors, order=1, mode="nearest")
  return new_HWD.reshape(1, new_rows * new_columns, -1)
