"""Panoptic maps made from a seed.

H W image pixels · S segments
"""

import numpy as np

# Side of the blocks of noise that bend the borders of segments, in pixels.
_BLOCK = 8


def draw_segments(rng: np.random.Generator, shape: tuple[int, int],
                  num_segments: int) -> np.ndarray:
  """int64 [H, W] of 0..S-1, ragged patches that cover the image.

  A pixel belongs to the nearest of S random points, in coordinates that noise
  has bent. Along a row the map changes about as often as one of COCO.
  """
  position_HW2 = _bent_grid(rng, shape)
  point_S2 = np.float32(rng.uniform((0, 0), shape, (num_segments, 2)))
  nearest_HW = np.full(shape, np.inf, np.float32)
  index_HW = np.zeros(shape, np.int64)
  # One point at a time: all distances at once would be S maps.
  for index, point in enumerate(point_S2):
    distance_HW = np.square(position_HW2 - point).sum(-1)
    index_HW = np.where(distance_HW < nearest_HW, index, index_HW)
    nearest_HW = np.minimum(distance_HW, nearest_HW)
  # Every number occurs, however close two points lie.
  places = rng.choice(index_HW.size, num_segments, replace=False)
  index_HW.reshape(-1)[places] = np.arange(num_segments)
  return index_HW


def _bent_grid(rng, shape):
  """(row, column) of each pixel, moved by noise; float32 [H, W, 2]."""
  height, width = shape
  position_HW2 = np.stack(np.mgrid[:height, :width], axis=-1)
  num_blocks = (height // _BLOCK + 1, width // _BLOCK + 1)
  coarse = rng.normal(size=(*num_blocks, 2))
  coarse = coarse.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
  coarse_HW2 = coarse[:height, :width] * 4
  # Coarse noise bends a border, fine noise frays it.
  fine_HW2 = rng.normal(size=coarse_HW2.shape)
  noise_HW2 = (coarse_HW2 + fine_HW2).astype(np.float32)
  return position_HW2.astype(np.float32) + noise_HW2
