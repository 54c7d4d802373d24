"""Regions of annotation files, and which of them lie on top.

H W pixels of an image
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from tools.prepare import polygons
from tools.prepare.panoptic import Segment
from tools.prepare.polygons import Rle
from uvim import registry
from uvim.categories import Category
from uvim.registry import ConfigError

_VOID = 0
# From bottom to top.
_CROWD_LAYER, _STUFF_LAYER, _OTHER_LAYER = range(3)


class Region(NamedTuple):
  """The pixels of one annotation.

  Attributes:
    name: of its category; None: the pixels are void.
    rle: the pixels; None: there is none.
    iscrowd: whether it is a group whose members nobody told apart.
  """
  name: str | None
  rle: Rle | None
  iscrowd: bool = False

  def has_pixels(self) -> bool:
    """Whether it has a pixel in its image."""
    return self.rle is not None and polygons.area(self.rle) > 0


def draw(regions: Sequence[Region], categories: Sequence[Category],
         size_HW: tuple[int, int]) -> tuple[np.ndarray, list[Segment]]:
  """One map of the regions of an image.

  Crowds lie at the bottom, then stuff, then things. Of things, and of stuff, a
  smaller region lies on top of a larger one; of two equal ones, the one that is
  later in the file. All stuff of one category becomes one segment.

  Args:
    regions: in the order of the file; all have pixels.
    categories: all that regions name.
    size_HW: height and width of the image.

  Returns:
    (int32 [H, W], the segment of each pixel, 0 is void; the segments. A
    segment may be hidden by others.)
  """
  label_of = {category.name: label
              for label, category in enumerate(categories)}
  stuff = {category.name for category in categories if not category.isthing}
  ids_HW = np.zeros(size_HW, np.int32)
  segments = []
  id_of_stuff = {}
  for region in _from_bottom_to_top(regions, stuff):
    number = _VOID if region.name is None else id_of_stuff.get(region.name)
    if number is None:
      number = len(segments) + 1
      is_stuff = region.name in stuff
      iscrowd = region.iscrowd and not is_stuff
      segments.append(Segment(number, label_of[region.name], iscrowd))
      if is_stuff:
        id_of_stuff[region.name] = number
    ids_HW[polygons.to_mask(region.rle)] = number
  return ids_HW, segments


def _from_bottom_to_top(regions: Sequence[Region], stuff: Collection[str]
                        ) -> list[Region]:
  """The regions in the order in which they cover each other; see `draw`."""
  def height(region):
    layer = _OTHER_LAYER
    if region.iscrowd:
      layer = _CROWD_LAYER
    elif region.name in stuff:
      layer = _STUFF_LAYER
    return layer, -polygons.area(region.rle)

  # Of equal ones the order stays.
  return sorted(regions, key=height)


def check_names(names: Collection[str], known: Sequence[str], what: str,
                where: str) -> None:
  """Raises a ConfigError unless all names are known.

  Args:
    names: to check.
    known: the names that are allowed.
    what: starts the message: whose names they are.
    where: where the known names come from.
  """
  for name in names:
    if name not in known:
      problem = registry.unknown("name", name, known)
      raise ConfigError(f"{what}: {problem} These are {where}.")
