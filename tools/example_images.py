"""Draws the tensors of an example: images, maps of classes, segments, depths.

The name of a tensor tells what its numbers mean: `panoptic_image` holds segment
ids, `semantics` and the first channel of integer `labels` hold classes (0 is
void), and other integers are ids of segments. Numbers with a fraction in one
channel are depths.

H W pixels · C channels
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uvim import palette, pixels
from uvim.categories import Category
from uvim.inference import legend, sheet

Data = Mapping[str, Any]

_IMAGE_HEIGHT = 200  # Pixels of one image on the sheet.
_GAP = 8
_BACKGROUND = (24, 26, 30)
# A smaller array of rank 2 is a list of boxes or the like.
_MIN_MAP_SIZE = 8
_LEGEND_WIDTH = 900


class NamedImage(NamedTuple):
  """An image of a sheet.

  Attributes:
    name: its title.
    image_HWC: uint8 [H, W, 3].
    classes: 1, 2, … that occur in it, if it shows classes.
  """
  name: str
  image_HWC: np.ndarray
  classes: frozenset[int] = frozenset()


def flatten(data: Data, prefix: str = "") -> dict[str, Any]:
  """A nested dict as one level, names joined by slashes."""
  flat = {}
  for key, value in data.items():
    if isinstance(value, Mapping):
      inner_prefix = f"{prefix}{key}/"
      flat |= flatten(value, inner_prefix)
    else:
      flat[prefix + key] = value
  return flat


# ── One tensor ──────────────────────────────────────────────────────────────


def images_of(data: Data) -> list[NamedImage]:
  """Everything that looks like an image or a map of labels, drawn.

  Args:
    data: tensors by name, may be nested.
  """
  flat = flatten(data)
  found = []
  for name, tensor in sorted(flat.items()):
    value = np.asarray(tensor)
    if name == "panoptic_image" and value.ndim == 3:
      found.append(_draw_panoptic(name, value, flat))
    else:
      found += _draw(name, value)
  return found


def _draw_panoptic(name: str, ids_HWC: np.ndarray, flat: Data) -> NamedImage:
  """The segments of a panoptic map in the colors of their classes."""
  ids_HW = pixels.ids_from_rgb(ids_HWC[..., :3])
  ids = flat.get("panoptic_objects/id")
  labels = flat.get("panoptic_objects/label")
  if ids is None or labels is None:
    return NamedImage(name, _color_ids(ids_HW))
  # Labels count from 0, classes from 1.
  classes = [int(label) + 1 for label in np.asarray(labels)]
  colors = palette.segment_colors(classes)
  # What no segment names stays void.
  image_HWC = np.zeros((*ids_HW.shape, 3), np.uint8)
  for segment_id, color in zip(np.asarray(ids), colors, strict=True):
    image_HWC[ids_HW == segment_id] = color
  return NamedImage(name, image_HWC, frozenset(classes))


def _draw(name: str, value: np.ndarray) -> list[NamedImage]:
  """The images of one tensor: one, one for each channel, or none."""
  if value.ndim == 2 and min(value.shape) >= _MIN_MAP_SIZE:
    value = value[..., None]
  kind = value.dtype.kind
  if value.ndim != 3 or value.size == 0 or kind not in "iuf":
    return []
  num_channels = value.shape[-1]
  if num_channels == 3 and kind == "f":
    return [NamedImage(name, _to_bytes(value))]
  if num_channels == 3 and value.dtype == np.uint8:
    return [NamedImage(name, value)]

  drawn = []
  for channel in range(num_channels):
    title = f"{name}[{channel}]" if num_channels > 1 else name
    map_HW = value[..., channel]
    if kind == "f":
      drawn.append(_draw_depth(title, map_HW))
    elif title in ("semantics", "labels", "labels[0]"):
      drawn.append(_draw_classes(title, map_HW))
    else:
      drawn.append(NamedImage(title, _color_ids(map_HW)))
  return drawn


def _to_bytes(image_HWC: np.ndarray) -> np.ndarray:
  """An image in [−1, 1], as preprocessing makes it, as uint8."""
  scaled_HWC = (image_HWC + 1) * 127.5
  levels_HWC = np.round(scaled_HWC)
  levels_HWC = np.clip(levels_HWC, 0, 255)
  return levels_HWC.astype(np.uint8)


def _draw_depth(title: str, depth_HW: np.ndarray) -> NamedImage:
  """Depths from near (bright) to far; the range is part of the title."""
  is_known_HW = (depth_HW > 0) & np.isfinite(depth_HW)
  if not is_known_HW.any():
    black_HWC = np.zeros((*depth_HW.shape, 3), np.uint8)
    return NamedImage(f"{title}, none", black_HWC)
  nearest = float(depth_HW[is_known_HW].min())
  farthest = float(depth_HW[is_known_HW].max())
  image_HWC = palette.depth_colors(depth_HW, nearest, farthest)
  return NamedImage(f"{title}, {nearest:.3g} to {farthest:.3g}", image_HWC)


def _draw_classes(title: str, classes_HW: np.ndarray) -> NamedImage:
  """Each class in its color."""
  classes, index = np.unique(classes_HW, return_inverse=True)
  image_HWC = _paint(classes, index.reshape(classes_HW.shape))
  # 0 is void. A negative number stands for pixels that do not count.
  shown = frozenset(classes[classes > 0].tolist())
  return NamedImage(title, image_HWC, shown)


def _color_ids(ids_HW: np.ndarray) -> np.ndarray:
  """Each id in a color of its own, 0 and below in black; uint8 [H, W, 3].

  An id may be any number. So it is its place among the ids that chooses the
  color: two ids that follow each other never look alike.
  """
  ids, index = np.unique(ids_HW, return_inverse=True)
  # The first id above 0 gets color 1.
  ranks = np.cumsum(ids > 0)
  return _paint(ranks, index.reshape(ids_HW.shape))


def _paint(numbers: np.ndarray, index_HW: np.ndarray) -> np.ndarray:
  """The color of `numbers[index]` in each pixel; uint8 [H, W, 3]."""
  colors = [palette.class_color(number) for number in numbers.tolist()]
  return np.stack(colors)[index_HW]


# ── The sheet ───────────────────────────────────────────────────────────────


def draw_sheet(rows: Sequence[Sequence[NamedImage]],
               categories: Sequence[Category] = ()) -> Image.Image:
  """A row for each example, the names above the images, a legend below.

  Args:
    rows: the images of each example.
    categories: class k is the k-th of them, counted from 1.
  """
  images = []
  titles = []
  classes = set()
  for row in rows:
    images.append([_fit(named.image_HWC) for named in row])
    titles.append([named.name for named in row])
    for named in row:
      classes |= named.classes
  names = legend.draw_names(
      sorted(classes), categories, width=_LEGEND_WIDTH,
      background=_BACKGROUND, text_color=sheet.WHITE)
  if names is not None:
    images.append([names])
  return sheet.draw_sheet(
      images,
      titles=titles,
      gap=_GAP,
      margin=_GAP,
      background=_BACKGROUND,
      text_color=sheet.WHITE)


def _fit(image_HWC: np.ndarray) -> Image.Image:
  """A PIL image of the height of the sheet's rows."""
  height, width = image_HWC.shape[:2]
  scaled_width = round(width * _IMAGE_HEIGHT / height)
  fitted_size = (max(1, scaled_width), _IMAGE_HEIGHT)
  image = Image.fromarray(image_HWC)
  # Nearest, so that the pixels of a label can be counted.
  return image.resize(fitted_size, Image.Resampling.NEAREST)
