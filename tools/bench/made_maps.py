"""Panoptic maps made from a seed.

H W image pixels · S segments
"""

import numpy as np

Generator = np.random.Generator
ImageSize = tuple[int, int]  # (H, W)

# Side of the blocks of noise that bend the borders of segments, in pixels.
_BLOCK = 8


def draw_segments(rng: Generator, shape: ImageSize, num_segments: int
                  ) -> np.ndarray:
  """int64 [H, W] of 0..S-1, ragged patches that cover the image.

  A pixel belongs to the nearest of S random points, in coordinates that noise
  has bent. Along a row the map changes about as often as one of COCO.
  """
  position_HW2 = _bent_grid(rng, shape)
  lowest = (0, 0)
  point_S2 = rng.uniform(lowest, shape, (num_segments, 2))
  point_S2 = point_S2.astype(np.float32)
  nearest_HW = np.full(shape, np.inf, np.float32)
  index_HW = np.zeros(shape, np.int64)
  # One point at a time: all distances at once would be S maps.
  for index, point in enumerate(point_S2):
    offset_HW2 = position_HW2 - point
    distance_HW = np.square(offset_HW2).sum(-1)
    is_nearer_HW = distance_HW < nearest_HW
    index_HW = np.where(is_nearer_HW, index, index_HW)
    nearest_HW = np.minimum(distance_HW, nearest_HW)
  # Every number occurs, however close two points lie.
  places = rng.choice(index_HW.size, num_segments, replace=False)
  # A view: what is written to it is written to the map.
  flat = index_HW.reshape(-1)
  flat[places] = np.arange(num_segments)
  return index_HW


def _bent_grid(rng, shape):
  """(row, column) of each pixel, moved by noise; float32 [H, W, 2]."""
  height, width = shape
  rows_and_columns = np.mgrid[:height, :width]
  position_HW2 = np.stack(rows_and_columns, axis=-1)
  # One block more than fits, so that the blocks cover the border.
  blocks_down = height // _BLOCK + 1
  blocks_across = width // _BLOCK + 1
  coarse = rng.normal(size=(blocks_down, blocks_across, 2))
  coarse = coarse.repeat(_BLOCK, axis=0)
  coarse = coarse.repeat(_BLOCK, axis=1)
  coarse_HW2 = coarse[:height, :width] * 4
  # Coarse noise bends a border, fine noise frays it.
  fine_HW2 = rng.normal(size=coarse_HW2.shape)
  noise_HW2 = coarse_HW2 + fine_HW2
  position_HW2 = position_HW2.astype(np.float32)
  return position_HW2 + noise_HW2.astype(np.float32)
