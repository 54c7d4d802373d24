"""A pretrained ViT as the language model's image encoder.

H W rows and columns of the new grid · D width

Published ViTs come in two spellings. Linen numbers the modules of a block by
kind (LayerNorm_0, LayerNorm_1, MlpBlock_0), the Flax before it numbered all of
them in one row (LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2,
MlpBlock_3) and kept the position embedding in a module of the Transformer.

Source: the released UViM, whose stage II starts from ViT-L/16 in this way;
names and shapes as in the published ViT files.
"""

import math
import re
from collections.abc import Mapping

import numpy as np
from scipy import ndimage

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
_CLASSIFIER = re.compile(r"cls|(head|pre_logits)/.*")
PREFIX = "params/"
POSITIONS = PREFIX + "pos_embedding_encoder"
# All that `encoder_arrays` can give.
ENCODER = re.compile(rf"{PREFIX}(encoder|EmbedPatches)/.*|{POSITIONS}")


def is_vit(names) -> bool:
  """Whether a file with arrays of these names holds a bare ViT."""
  return any(name.startswith(f"{PREFIX}Transformer/") for name in names)


def encoder_arrays(
    vit: Mapping[str, np.ndarray], grid: tuple[int, int] | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """A ViT's arrays under the language model's names.

  Args:
    vit: arrays by name ('params/Transformer/…'), in either spelling.
    grid: rows and columns of patches of the language model; None: it learns
      no position embedding, so that of the ViT is left out.

  Returns:
    (arrays by name, names left out). Left out are the class token, its
    position, the head and its hidden layer: the encoder has none of them.
    Names that no ViT has are kept as they are, for the caller to refuse.

  Raises:
    ConfigError: two arrays of one meaning; a position embedding of no square
      grid.
  """
  out, left = {}, []
  for full_name, array in vit.items():
    name = _rename(full_name.removeprefix(PREFIX), _LINEN_NAMES)
    if _CLASSIFIER.fullmatch(name) or (name == "pos_embedding" and not grid):
      left.append(full_name)
      continue
    new = PREFIX + _rename(name, _ENCODER_NAMES)
    if new in out:
      raise ConfigError(f"A ViT with two spellings: {full_name!r} and another "
                        f"array would both be {new!r}.")
    out[new] = array
  if grid and POSITIONS in out:
    out[POSITIONS] = _fit_positions(out[POSITIONS], tuple(grid))
  return out, left


def _rename(name, rules):
  for pattern, replacement in rules:
    if re.fullmatch(pattern, name):
      return re.sub(pattern, replacement, name)
  return name


def _fit_positions(old_1ND, grid):
  """The ViT's position embedding [1, (class token +) N, D] on `grid`."""
  num = old_1ND.shape[1]
  if math.isqrt(num - 1) ** 2 == num - 1:
    # No two squares follow each other, so the one too many is the class token.
    old_1ND, num = old_1ND[:, 1:], num - 1
  side = math.isqrt(num)
  if side ** 2 != num:
    raise ConfigError(f"A ViT's position embedding of {num} tokens; expected "
                      "a square grid, with or without a class token.")
  return resample_grid(old_1ND, (side, side), grid)


def resample_grid(
    old_1ND: Float[np.ndarray, "1 N D"],
    old: tuple[int, int],
    new: tuple[int, int],
) -> Float[np.ndarray, "1 M D"]:
  """Bilinear resize of a grid of (rows, columns), row-major.

  The corners of both grids coincide, as in the released model, so the outermost
  patches keep their embeddings. Equal grids come back untouched.
  """
  if old == new:
    return old_1ND
  grid_HWD = old_1ND.reshape(*old, -1)
  # By default scipy takes what rounding puts beyond the edge for zeros.
  new_HWD = ndimage.zoom(
      grid_HWD, (new[0] / old[0], new[1] / old[1], 1), order=1, mode="nearest")
  return new_HWD.reshape(1, new[0] * new[1], -1)
