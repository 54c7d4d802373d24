"""From the arrays of a file to those of a network's image encoder.

N tokens of the grid · R class token and registers · D width
"""

import collections
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from uvim.encoders import ENCODERS, base, positions, torch_naming
from uvim.encoders.base import (
  BIAS,
  CLASS_AND_REGISTERS,
  KERNEL,
  POSITIONS,
  PREFIX,
  Arrays,
  EncoderSpec,
  Family,
  Found,
  Grid,
)
from uvim.encoders.flax_naming import Flax, Own
from uvim.encoders.naming import Naming
from uvim.registry import ConfigError

# Asked in this order; the first that knows the names takes the file.
NAMINGS: tuple[Naming, ...] = (
    Flax(), torch_naming.TIMM, torch_naming.HF_VIT, torch_naming.HF_CLIP,
    Own())

# (a regular expression for a name, what has such names, what to take instead)
_OTHER_NETWORKS = (
    (r"relative_position_(bias|index)",
     "BEiT or Swin, whose attention has a bias for each distance",
     "a DINOv2 or MAE of the same size"),
    (r"weights_in|mlp\.(w12|w1|w2|w3|fc1_[gx])\.",
     "a ViT with SwiGLU, such as DINOv2-giant",
     "DINOv2-L/14"),
    (r"(^|[._/])rope|\.(attention|attn)\.[qkvo]_proj\.|\.gamma_1$",
     "a ViT with rotary positions, such as DINOv3",
     "DINOv2"),
    (r"dist_token|distillation_token",
     "a distilled DeiT, which has a second class token",
     "DeiT without distillation (family 'dino')"),
)


def recognise(names: Iterable[str]) -> Naming | None:
  """The naming of a file whose arrays have these names; None: none known."""
  names = list(names)
  for naming in NAMINGS:
    if naming.is_mine(names):
      return naming
  return None


def to_ours(
    naming: Naming,
    arrays: Arrays,
    spec: EncoderSpec,
    old_grid: Grid | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Arrays for the image encoder of a network.

  Args:
    naming: that of the file.
    arrays: name → array, as in the file.
    spec: the network's encoder.
    old_grid: rows and columns of the file's positions; None: they make a
      square.

  Returns:
    (float32 arrays by our names, below `base.PARTS`; lines that say what was
    done with the file).

  Raises:
    ConfigError: another network, a file of another family, arrays that
      contradict each other, positions on no square grid.
  """
  check_names(arrays)
  found = naming.read(arrays, spec.num_heads)
  _check_shapes(found)
  family = _check_family(found, spec)
  encoder = _encoder(found, family)
  positions_of_grid, notes_on_grid = _positions(found, spec, old_grid)
  ours = encoder | _prefix(found, family) | positions_of_grid
  left_out = _list(_left_out(found, family, spec))
  notes = [
      *_notes_on_heads(found, spec),
      *notes_on_grid,
      f"not of use here: {left_out}",
  ]
  beginning = PREFIX + spec.below
  return {beginning + name: array for name, array in ours.items()}, notes


def check_names(names: Iterable[str]) -> None:
  """Raises a ConfigError if names show a network that is no plain ViT.

  The error says what to take instead.
  """
  for name in names:
    for pattern, what, alternative in _OTHER_NETWORKS:
      if re.search(pattern, name):
        raise ConfigError(
            f"This is {what} ({name.removeprefix(PREFIX)!r}). It is not "
            f"supported; take {alternative}.")


# ── The family ──────────────────────────────────────────────────────────────


def families_of(found: Found) -> list[str]:
  """The families that a file may be of; often there are several."""
  names = list(ENCODERS)
  if found.only:
    names = [found.only]
  elif _has_fixed_positions(found):
    names = ["mae"]
  return [name for name in names if ENCODERS[name].fits(found)]


def _has_fixed_positions(found):
  """Whether it is MAE's: the position of its class token is zero."""
  if found.positions is None or found.class_token is None:
    return False
  of_class_token, _ = found.split_positions()
  return of_class_token is not None and not of_class_token.any()


def _check_family(found: Found, spec: EncoderSpec) -> Family:
  possible = families_of(found)
  if spec.family not in possible:
    what = _describe(found)
    if not possible:
      raise ConfigError(f"A ViT with {what} is of no family known here; "
                        f"{spec.option} may be {', '.join(ENCODERS)}.")
    choice = " or ".join(repr(name) for name in possible)
    raise ConfigError(
        f"A ViT with {what} is not of the family {spec.family!r}: write "
        f"{spec.option} = {choice}.")
  return ENCODERS[spec.family]


def _describe(found: Found) -> str:
  num_registers = 0
  if found.registers is not None:
    num_registers = found.registers.shape[1]
  has_class_token = found.class_token is not None
  parts = ["a class token" if has_class_token else "no class token"]
  if found.pixels_are_ours:
    parts = [f"{num_registers} tokens before those of the image"]
  elif num_registers:
    parts.append(f"{num_registers} registers")
  if found.has_layer_scale:
    parts.append("layer scale")
  if found.has_pre_norm:
    parts.append("a norm before its blocks")
  if found.only:
    parts.append(f"names of {found.only}")
  return ", ".join(parts)


# ── Its arrays ──────────────────────────────────────────────────────────────

# More names than these are listed as groups.
_MOST_NAMES = 24
# All published ViTs of these widths have heads of this size.
_STANDARD_WIDTHS = (192, 384, 768, 1024)
_HEAD_SIZE = 64


def _list(names: Iterable[str]) -> str:
  """Names in one line; many of them as 'text_model… (197 arrays)'."""
  names = sorted(names)
  if len(names) <= _MOST_NAMES:
    return ", ".join(names) or "nothing"
  sizes = collections.Counter()
  for name in names:
    first = re.split("[./]", name.removeprefix(PREFIX))[0]
    sizes[first] += 1
  groups = [f"{first}… ({size} arrays)" for first, size in sizes.items()]
  return ", ".join(groups)


def _notes_on_heads(found: Found, spec: EncoderSpec) -> list[str]:
  """Warns of an unusual number of heads, which most files do not contain."""
  kernel = found.arrays.get(KERNEL)
  if kernel is None or found.pixels_are_ours:
    return []
  width = kernel.shape[-1]
  usual = width // _HEAD_SIZE
  if width not in _STANDARD_WIDTHS or spec.num_heads == usual:
    return []
  return [f"warning: num_heads = {spec.num_heads}, but published ViTs of width "
          f"{width} have {usual}"]


def _check_shapes(found: Found) -> None:
  """Refuses arrays that contradict each other, and an MLP of another kind."""
  kernel = found.arrays.get(KERNEL)
  if kernel is not None:
    _check_widths(found, kernel)
  mlp = f"{base.BLOCKS}encoderblock_0/MlpBlock_0/Dense_"
  first = found.arrays.get(f"{mlp}0/kernel")
  second = found.arrays.get(f"{mlp}1/kernel")
  if first is not None and second is not None:
    if first.shape[-1] == 2 * len(second):
      raise ConfigError("This is a ViT with SwiGLU in one array, such as "
                        "DINOv2-giant. It is not supported; take DINOv2-L/14.")


def _check_widths(found: Found, kernel: np.ndarray) -> None:
  """Refuses what does not have the width of the patch embedding."""
  if kernel.ndim != 4 or kernel.shape[2] != 3:
    raise ConfigError(
        f"Its patch embedding has shape {list(kernel.shape)}; expected "
        "[height, width, 3, D].")
  width = kernel.shape[-1]
  arrays = {
      "class token": found.class_token,
      "registers": found.registers,
      "position embedding": found.positions,
      "bias of the patches": found.arrays.get(BIAS),
  }
  for what, array in arrays.items():
    if array is not None and array.shape[-1:] != (width,):
      raise ConfigError(f"Its {what} has shape {list(array.shape)}, but the "
                        f"width of its patch embedding is {width}.")


def _encoder(found: Found, family: Family) -> dict[str, np.ndarray]:
  """Patches and blocks, below the place where the encoder stands."""
  ours = base.fold_scales(found)
  if family.pixels and not found.pixels_are_ours:
    for name in (KERNEL, BIAS):
      if name not in ours:
        raise ConfigError(f"The file has no array for {name!r}.")
    ours[KERNEL], ours[BIAS] = base.fold_pixels(
        ours[KERNEL], ours[BIAS], family.pixels)
  return ours


def _prefix(found: Found, family: Family) -> dict[str, np.ndarray]:
  """What stands before the tokens of the image, if anything does.

  It is one array [1, R, D]: class token with its position, then registers.
  """
  if not family.style.num_prefix:
    return {}
  parts = []
  if found.class_token is not None:
    class_token = found.class_token
    position_of_class, _ = _split_positions(found)
    if position_of_class is not None:
      class_token = class_token + position_of_class
    parts.append(class_token)
  if found.registers is not None:
    parts.append(found.registers)
  if not parts:
    return {}
  return {CLASS_AND_REGISTERS: np.concatenate(parts, axis=1)}


def _positions(
    found: Found,
    spec: EncoderSpec,
    old_grid: Grid | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
  """(the positions if the network needs them, lines that say what was done)."""
  if found.positions is None and not found.pixels_are_ours:
    raise ConfigError("The file has no position embedding. Are its positions "
                      "rotary, as DINOv3's? That is not supported.")
  # A file of ours without positions may have fixed waves. If the network needs
  # positions, whoever compares its arrays with these finds that they are
  # missing.
  if found.positions is None or spec.grid is None:
    return {}, []
  _, grid_1ND = _split_positions(found)
  old_grid = _check_grid(grid_1ND.shape[1], old_grid)
  notes = []
  if old_grid != spec.grid:
    notes.append(f"position embedding resized from {_by(old_grid)} to "
                 f"{_by(spec.grid)} places ({found.resize})")
  resized = positions.resize(grid_1ND, old_grid, spec.grid, found.resize)
  return {POSITIONS: resized}, notes


def _split_positions(found: Found):
  """(position of the class token [1, 1, D] or None, the grid's [1, N, D])."""
  if found.pixels_are_ours:
    # The class token of ours holds its position already.
    return None, found.positions
  return found.split_positions()


def _check_grid(num_tokens: int, grid: Grid | None) -> Grid:
  """The grid of a file's positions; a square unless `grid` fits."""
  if grid is not None and math.prod(grid) == num_tokens:
    return grid
  if not base.is_square(num_tokens):
    raise ConfigError(
        f"A ViT's position embedding of {num_tokens} tokens; expected a "
        "square grid, with or without a class token.")
  side = math.isqrt(num_tokens)
  return (side, side)


def _by(grid: Grid) -> str:
  """A grid in words, such as 14×14."""
  rows, columns = grid
  return f"{rows}×{columns}"


def _left_out(found: Found, family: Family, spec: EncoderSpec) -> list[str]:
  """The names of the file that the network does not take."""
  names = list(found.left_out)
  if found.class_token is not None and family.drops_class_token:
    names.append(found.class_name)
  if found.positions is not None and spec.grid is None:
    names.append(found.positions_name)
  return names


# ── Sizes ───────────────────────────────────────────────────────────────────


def check_sizes(arrays: Arrays, wanted: Arrays, spec: EncoderSpec) -> None:
  """Compares a file's sizes with the network's, in the words of configs.

  Args:
    arrays: from `to_ours`.
    wanted: the network's arrays of the encoder, of anything with a shape.
    spec: as in `to_ours`.

  Raises:
    ConfigError: names all sizes that differ.
  """
  found_sizes = _sizes(arrays, spec)
  wanted_sizes = _sizes(wanted, spec)
  differences = []
  for what, wanted_size in wanted_sizes.items():
    found_size = found_sizes.get(what, wanted_size)
    if found_size != wanted_size:
      differences.append(f"{what} {found_size}, not {wanted_size}")
  if not differences:
    return
  hint = ""
  if found_sizes.get("patch") != wanted_sizes.get("patch"):
    hint = " The image's height and width must be multiples of the patch."
  raise ConfigError(f"The file's encoder has {', '.join(differences)} as in "
                    f"the config.{hint}")


def _sizes(arrays, spec: EncoderSpec) -> dict[str, Any]:
  """Sizes that shapes tell, as far as there are such arrays."""
  beginning = PREFIX + spec.below
  sizes = {}
  kernel = arrays.get(beginning + KERNEL)
  if kernel is not None and len(kernel.shape) == 4:
    height, width, _, _ = kernel.shape
    sizes["patch"] = f"{height}×{width}"
  blocks = set()
  for name in arrays:
    block = re.match(
        re.escape(beginning) + r"encoder/encoderblock_(\d+)/", name)
    if block:
      blocks.add(int(block[1]))
  sizes["depth"] = len(blocks)
  dense = arrays.get(
      f"{beginning}encoder/encoderblock_0/MlpBlock_0/Dense_0/kernel")
  if dense is not None and len(dense.shape) == 2:
    sizes["width"], sizes["MLP width"] = dense.shape
  return sizes
