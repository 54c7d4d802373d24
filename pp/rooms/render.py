"""Renders a scene: image, segments and depth, in numpy alone.

One ray through each pixel finds what is seen. Pixels where the image changes
get three more rays, each with its own sample of the lamp. So edges are smooth
and shadows are soft at a fraction of the cost of four rays for all.

Axes: H W pixels, N hits, 3 = x, y, z or R, G, B. Depth in metres.
"""

import numpy as np

from pp.rooms.colors import to_bytes
from pp.rooms.kinds import kind_of
from pp.rooms.scene import draw_scene, make_rng
from pp.rooms.segments import (
  find_edges,
  is_window,
  label_segments,
  mark_both_sides,
  segment_numbers,
)
from pp.rooms.shade import shade
from pp.rooms.trace import pixel_centers, prepare, trace, trace_pixels
from pp.rooms.vectors import set_columns, true_indices

# Where in a pixel its finer rays go, (column, row) from its middle.
_OFFSETS = np.float32([(-0.1, -0.36), (0.36, 0.1), (-0.26, 0.26)])
_MAX_JUMP = 0.1  # Between neighbors that need no finer rays, as square root.
_DEPTH_STEPS = 256  # Per metre; depth in steps compresses twice as well.
_SHADOW_SLOPE = 0.5  # Metres of depth per pixel, from near to far.


def _to_image(color_3N, height, width):
  """Linear RGB in 0..1 → uint8 [H, W, 3]."""
  image = np.empty((height, width, 3), np.uint8)
  # A view: what is written to it is in the image.
  image_3N = image.reshape(-1, 3).T
  set_columns(image_3N, slice(None), to_bytes(color_3N))
  return image


def _rough_pixels(color_3N, surface_N, height, width):
  """Numbers of the pixels that differ from a neighbor.

  They differ in what they show, or clearly in brightness.
  """
  surface_HW = surface_N.reshape(height, width)
  edge_HW = find_edges(surface_HW)
  # The square root is about as even to the eye as the final bytes.
  tone_3HW = np.sqrt(color_3N).reshape(3, height, width)
  mark_both_sides(edge_HW, _jumps(tone_3HW))
  mark_both_sides(edge_HW.T, _jumps(tone_3HW.swapaxes(1, 2)))
  return true_indices(edge_HW.reshape(-1))


def _jumps(tone_3HW):
  """Where some component jumps from a row to the next, [H - 1, W]."""
  difference = np.abs(tone_3HW[:, 1:] - tone_3HW[:, :-1])
  return difference.max(0) > _MAX_JUMP


def _refine(prepared, hits, color_3N):
  """Replaces rough pixels by the mean of three finer rays, in place."""
  scene = prepared.scene
  camera = scene.camera
  pixels = _rough_pixels(
      color_3N, hits.surface_N, camera.height, camera.width)
  if not len(pixels):
    return
  row, column = np.divmod(pixels, camera.width)
  middle = pixel_centers(np.array([column, row]))
  # [ray, column or row, pixel] → the rays of all pixels in a line.
  positions = _OFFSETS[:, :, None] + middle
  fine_column, fine_row = np.concatenate(positions, axis=1)
  fine_hits = trace(prepared, fine_column, fine_row)
  # The first rays of all pixels see the first sample of the lamp, and so on.
  samples = np.repeat(scene.lamp.samples_3L[:, None], len(pixels), axis=2)
  fine_color = np.minimum(shade(prepared, fine_hits, samples), 1)
  by_ray = fine_color.reshape(3, len(_OFFSETS), -1).swapaxes(0, 1)
  mean_color = np.add.reduce(by_ray) / len(_OFFSETS)
  set_columns(color_3N, pixels, mean_color)


def _beside_near_things(depth_HW):
  """Pixels that the projector of a depth camera does not reach.

  It stands to the left of the camera, so near things shade what is to their
  left.
  """
  gap_HW = np.zeros(depth_HW.shape, bool)
  for step in (1, 2):
    left_HW = depth_HW[:, :-step]
    right_HW = depth_HW[:, step:]
    is_shaded = left_HW - right_HW > _SHADOW_SLOPE * step
    gap_HW[:, :-step] |= is_shaded
  return gap_HW


def _mark_blobs(rng, gap_HW):
  """Marks up to three small ellipses, in place."""
  height, width = gap_HW.shape
  rows = np.arange(height)[:, None]
  columns = np.arange(width)
  num_blobs = rng.integers(4)
  # Each is a row, a column and two radii.
  span = (height, width, 3, 4)
  least = (0, 0, 1, 1)
  blobs = rng.random((num_blobs, 4)) * span + least
  for middle_row, middle_column, row_radius, column_radius in blobs:
    down = (rows - middle_row) / row_radius
    across = (columns - middle_column) / column_radius
    gap_HW |= down ** 2 + across ** 2 < 1


def _measured_depth(rng, depth_HW, window_HW):
  """Depth as a depth camera measures it: in steps, and 0 in its holes."""
  steps = np.round(depth_HW * _DEPTH_STEPS)
  measured_HW = steps / np.float32(_DEPTH_STEPS)
  gap_HW = _beside_near_things(measured_HW)
  if rng.random() < 0.5:  # Glass sends nothing back.
    gap_HW |= window_HW
  _mark_blobs(rng, gap_HW)
  return measured_HW * ~gap_HW


def keep_memory():
  """Keeps glibc from handing memory back to the system after each scene.

  It stops doing so once a block as large as this was freed. The page faults of
  getting the memory again would cost a tenth of all rendering.
  """
  np.empty(3 << 20, np.uint8)


def render_scene(scene):
  """Renders a Scene without the flaws of sensors and annotators.

  Returns:
    The image, uint8 [H, W, 3]; the number of the segment of each pixel, int
    [H, W], see `segments`; depth, float32 [H, W].
  """
  shape = (scene.camera.height, scene.camera.width)
  prepared = prepare(scene)
  hits = trace_pixels(prepared)
  samples_3L1 = scene.lamp.samples_3L[:, :, None]
  color_3N = np.minimum(shade(prepared, hits, samples_3L1), 1)
  _refine(prepared, hits, color_3N)
  number_HW = segment_numbers(scene, hits).reshape(shape)
  depth_HW = hits.depth_N.reshape(shape)
  return _to_image(color_3N, *shape), number_HW, depth_HW


def render(seed, index, height=None, width=None):
  """Renders one scene, the same on every call and in every process.

  Args:
    seed: stream of scenes, an int ≥ 0; each split has its own.
    index: number of the scene in the stream, an int ≥ 0.
    height: pixels; None draws a size around 96 × 128 or 128 × 96, and takes
      64 for a hard scene.
    width: pixels, likewise.

  Returns:
    dict: `image` uint8 [H, W, 3]; `segments` int32 [H, W], 0 = void;
    `objects`, a list of dicts with id, label (position in the categories), area
    (pixels), bbox (top, left, bottom, right in pixels, ends exclusive) and
    is_crowd (False); `depth` float32 [H, W], metres along the optical axis,
    0 = hole.
  """
  keep_memory()
  rng = make_rng(seed, index)
  scene = draw_scene(rng, height, width, kind_of(seed))
  image, number_HW, depth_HW = render_scene(scene)
  window_HW = is_window(number_HW)  # Before rims become void.
  thing_labels = [thing.label for thing in scene.things]
  segments, objects = label_segments(rng, number_HW, thing_labels)
  return {
      "image": image,
      "segments": segments,
      "objects": objects,
      "depth": _measured_depth(rng, depth_HW, window_HW),
  }
