"""Segments of an image: which thing or stuff is seen at each pixel.

While a scene is rendered a segment has a small number: a thing has its own
number in the scene, stuff of a category has _STUFF + its label, and unlabelled
pixels have _VOID. At the end each number gets a random id, as in COCO.

Axes: H W pixels, N hits.
"""

import numpy as np

from pp.rooms import surfaces
from pp.rooms.scene import FLOOR
from pp.rooms.things import CLUTTER, LABEL
from pp.rooms.vectors import take_columns, true_indices

_STUFF = 100
_VOID = 255
_NUMBERS = 256  # All numbers are below.
_NUM_IDS = 1 << 24  # An id is stored as three bytes, R, G and B.

# Shares of the image.
MIN_VISIBLE = 0.004  # Smaller segments become void.
_MIN_SLOPPY = 0.03  # Only the rims of larger segments become void.

_RUG = _STUFF + LABEL["rug"]
_WINDOW = _STUFF + LABEL["window"]
# Numbers of the planes, by their codes: these are negative and index from the
# end, so that the floor (-1) comes last.
_PLANE_NUMBERS = [
    _STUFF + LABEL["wall"],
    _STUFF + LABEL["wall"],
    _STUFF + LABEL["wall"],
    _STUFF + LABEL["wall"],
    _STUFF + LABEL["ceiling"],
    _STUFF + LABEL["floor"],
]


def segment_numbers(scene, hits):
  """The number of the segment that each hit belongs to, int [N]."""
  number_of_owner = []
  for number, thing in enumerate(scene.things):
    number_of_owner.append(_VOID if thing.label == CLUTTER else number)
  number_of_owner += _PLANE_NUMBERS
  number_N = np.array(number_of_owner).take(hits.owner_N)
  if scene.rug is not None:
    on_floor = true_indices(hits.surface_N == FLOOR)
    points = take_columns(hits.point_3N, on_floor)
    distance = surfaces.rug_distance(scene.rug, points)
    on_rug = on_floor.compress(distance < 1)
    number_N[on_rug] = _RUG
  if scene.window is not None:
    in_window = surfaces.window_hits(
        scene.window, hits.surface_N, hits.point_3N)
    number_N[in_window.index] = _WINDOW
  return number_N


def is_window(number_HW):
  """Which pixels show the window."""
  return number_HW == _WINDOW


def mark_both_sides(edge_HW, change_HW):
  """Marks the rows before and after each change, in place.

  Args:
    edge_HW: bool [H, W], where to mark.
    change_HW: bool [H - 1, W], where a row differs from the next one.
  """
  edge_HW[1:] |= change_HW
  edge_HW[:-1] |= change_HW


def find_edges(value_HW):
  """Pixels with another value above, below, to the left or to the right."""
  edge_HW = np.zeros(value_HW.shape, bool)
  mark_both_sides(edge_HW, value_HW[1:] != value_HW[:-1])
  mark_both_sides(edge_HW.T, value_HW.T[1:] != value_HW.T[:-1])
  return edge_HW


def _count_pixels(number_HW):
  """Pixels of each number, [_NUMBERS]."""
  return np.bincount(number_HW.ravel(), minlength=_NUMBERS)


def _make_rims_void(rng, number_HW):
  """In about half of all images, gives the rims of some segments to void."""
  draws = rng.random(_NUMBERS)
  share = 0.35 if rng.random() < 0.5 else 0.0
  # On small segments a rim of one pixel would be a quarter of the segment.
  is_large = _count_pixels(number_HW) > _MIN_SLOPPY * number_HW.size
  is_sloppy = (draws < share) & is_large
  if is_sloppy.any():
    is_rim = find_edges(number_HW) & is_sloppy.take(number_HW)
    number_HW[is_rim] = _VOID


def draw_ids(rng):
  """An id for each number: random, and often above 255, as in COCO."""
  ids = rng.choice(_NUM_IDS, _NUMBERS, replace=False) + 1
  # Brings 1..2^24 to 1..2^24 - 1: 0 is void, and 2^24 needs a fourth byte.
  return ids % (_NUM_IDS - 1) + 1


def _true_range(flags):
  """The first index that is True, and the index behind the last one."""
  as_bytes = flags.tobytes()
  return as_bytes.find(1), as_bytes.rfind(1) + 1


def _bounding_box(mask_HW):
  """Top, left, bottom and right of the True pixels; the ends are exclusive."""
  top, bottom = _true_range(np.logical_or.reduce(mask_HW, 1))
  left, right = _true_range(np.logical_or.reduce(mask_HW, 0))
  return top, left, bottom, right


def label_segments(rng, number_HW, thing_labels):
  """Gives segments their ids and describes them.

  As in COCO each thing is a segment, and all stuff of one category is one.

  Args:
    rng: a numpy Generator.
    number_HW: numbers of segments, int; overwritten.
    thing_labels: labels of the things of the scene.

  Returns:
    Ids int32 [H, W], 0 = void, and the list of objects; see `render.render`.
  """
  _make_rims_void(rng, number_HW)
  return describe(number_HW, draw_ids(rng), thing_labels)


def describe(number_HW, ids, thing_labels):
  """Describes the segments of a map.

  Args:
    number_HW: numbers of segments, int.
    ids: the id of each number.
    thing_labels: labels of the things of the scene.

  Returns:
    As `label_segments`. Segments of a few pixels are void and no objects.
  """
  area = _count_pixels(number_HW)
  id_of_number = np.zeros(_NUMBERS, np.int32)
  objects = []
  is_visible = area[:_VOID] >= MIN_VISIBLE * number_HW.size
  bytes_HW = number_HW.astype(np.uint8)  # Faster to compare.
  for number in true_indices(is_visible).tolist():
    id_of_number[number] = ids[number]
    if number < _STUFF:
      label = thing_labels[number]
    else:
      label = number - _STUFF
    objects.append({
        "id": int(ids[number]),
        "label": label,
        "area": int(area[number]),
        "bbox": _bounding_box(bytes_HW == number),
        "is_crowd": False,
    })
  return id_of_number.take(number_HW), objects
