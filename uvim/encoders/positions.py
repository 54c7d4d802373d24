"""Resizes a grid of position embeddings, in each way that pretrained ViTs use.

H W rows and columns of the old grid · D width

All methods are linear and treat rows and columns alike, so each is one matrix
per axis. `jax.image.resize` is none of them: its cubic has another parameter.

Source: the interpolation of PyTorch, in which the features of most published
ViTs were computed.
"""

from collections.abc import Callable

import numpy as np

from uvim.encoders.base import Grid
from uvim.typing import Float

# [new, old]: how much each new place takes of each old one.
Weights = Float[np.ndarray, "M N"]

# The parameter of the cubic: PyTorch's, and with antialiasing Pillow's.
_CUBIC = -0.75
_ANTIALIAS_CUBIC = -0.5


def resize(
    old_1ND: Float[np.ndarray, "1 N D"],
    old: Grid,
    new: Grid,
    method: str,
) -> Float[np.ndarray, "1 M D"]:
  """Position embeddings for another grid of (rows, columns), row-major.

  Args:
    old_1ND: one embedding for each place of the grid `old`.
    old: its rows and columns.
    new: those that are wanted. Equal grids come back untouched.
    method: a key of METHODS.
  """
  if old == new:
    return old_1ND
  make_weights = METHODS[method]
  row_weights = make_weights(old[0], new[0])
  column_weights = make_weights(old[1], new[1])
  old_HWD = old_1ND.reshape(*old, -1)
  new_rows_HWD = np.tensordot(row_weights, old_HWD, axes=1)
  # The axis that a product sums over goes; the new one comes first.
  new_WHD = np.tensordot(column_weights, new_rows_HWD, axes=(1, 1))
  new_HWD = new_WHD.swapaxes(0, 1)
  return new_HWD.reshape(1, new[0] * new[1], -1).astype(old_1ND.dtype)


def _bilinear_corners(old: int, new: int) -> Weights:
  """The first and the last place of both grids coincide."""
  last = max(new - 1, 1)
  # Multiply first, so that the last place is exact.
  places = np.arange(new) * (old - 1) / last
  return _linear(places, old)


def _bilinear(old: int, new: int) -> Weights:
  """The edges of both grids coincide."""
  places = np.maximum(_centers(new, new / old), 0)
  return _linear(places, old)


def _bicubic(old: int, new: int) -> Weights:
  """The edges of both grids coincide."""
  return _cubic(_centers(new, new / old), old)


def _bicubic_offset(old: int, new: int) -> Weights:
  """What the original code of DINO and DINOv2 does.

  It adds 0.1 to the new size before it computes the factor, because rounding
  might make the grid one smaller. That moves all places a little. No file is
  read with this method: timm and transformers do not add it. It is for
  comparisons.
  """
  return _cubic(_centers(new, (new + 0.1) / old), old)


def _bicubic_antialias(old: int, new: int) -> Weights:
  """As `_bicubic`, but a smaller grid is made of means, as Pillow does."""
  # How far the cubic is stretched.
  stretch = max(old / new, 1.0)
  centers = (np.arange(new) + 0.5) * old / new
  weights = np.zeros((new, old))
  for i, center in enumerate(centers):
    first = max(int(center - 2 * stretch + 0.5), 0)
    end = min(int(center + 2 * stretch + 0.5), old)
    places = np.arange(first, end) + 0.5
    distances = (places - center) / stretch
    weights[i, first:end] = _cubic_curve(distances, _ANTIALIAS_CUBIC)
  return weights / weights.sum(axis=1, keepdims=True)


def _centers(new: int, factor: float) -> Float[np.ndarray, "M"]:
  """Where the centers of the new places lie, counted in old places."""
  return (np.arange(new) + 0.5) / factor - 0.5


def _linear(places, old) -> Weights:
  """Each place between its two neighbours; none beyond the last."""
  weights = np.zeros((len(places), old))
  for i, place in enumerate(places):
    left = int(place)
    right = min(left + 1, old - 1)
    share = place - left
    weights[i, left] += 1 - share
    weights[i, right] += share
  return weights


def _cubic(places, old) -> Weights:
  """Each place from four neighbours; the edge stands for those beyond it."""
  weights = np.zeros((len(places), old))
  for i, place in enumerate(places):
    left = int(np.floor(place))
    neighbours = np.arange(left - 1, left + 3)
    shares = _cubic_curve(neighbours - place, _CUBIC)
    inside = np.clip(neighbours, 0, old - 1)
    # At an edge, one place stands for several, and `+=` would add only once.
    np.add.at(weights[i], inside, shares)
  return weights


def _cubic_curve(distances, a):
  """Keys' cubic with parameter `a`; 0 from a distance of 2 on."""
  x = np.abs(distances)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  near_or_far = np.where(x <= 1, near, far)
  return np.where(x < 2, near_or_far, 0.0)


METHODS: dict[str, Callable[[int, int], Weights]] = {
    "bilinear_corners": _bilinear_corners,
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "bicubic_antialias": _bicubic_antialias,
    "bicubic_offset": _bicubic_offset,
}
