"""The instances of a video: a number, a color and a class for each.

The number is the id that the model gives. Whatever has the same id in several
frames is a track, and has one color in all of them.

H W pixels of a frame
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from uvim import palette, resize
from uvim.inference import overlay, segments
from uvim.tasks.base import Categories
from uvim.typing import Int

# The masks are PNGs of 8 bits with a palette.
NUM_IDS = 256
_OUTLINE = 255


@dataclasses.dataclass
class Track:
  """An instance, as far as it is known.

  Attributes:
    id: 1, 2, …
    first_class: its class where it appeared, which gives it its color.
    first_frame, last_frame: numbers of frames.
    frames_of_class: class → in how many frames it had it.
  """
  id: int
  first_class: int
  first_frame: int
  last_frame: int
  frames_of_class: collections.Counter

  @property
  def class_id(self) -> int:
    """The class that it has in most frames."""
    counts = self.frames_of_class
    return max(counts, key=counts.__getitem__)


class Tracks:
  """The tracks of a video, which grow frame by frame."""

  def __init__(self, categories: Categories = None):
    # Names of the classes; None: they have numbers.
    self._categories = categories
    # In the order in which they appeared.
    self._tracks: dict[int, Track] = {}

  def add(self, number: int, panoptic: Int[np.ndarray, "H W 2"]) -> None:
    """Takes the next frame.

    Args:
      number: of the frame.
      panoptic: class and id of each pixel; 0 is void.
    """
    for class_id, track_id in _pairs(panoptic):
      track = self._tracks.get(track_id)
      if track is None:
        track = Track(
            id=track_id,
            first_class=class_id,
            first_frame=number,
            last_frame=number,
            frames_of_class=collections.Counter(),
        )
        self._tracks[track_id] = track
      track.last_frame = number
      track.frames_of_class[class_id] += 1

  def colors(self) -> np.ndarray:
    """uint8 [NUM_IDS, 3]: the color of each id, black for void."""
    colors = np.zeros((NUM_IDS, 3), np.uint8)
    tracks = self._tracks.values()
    ids = list(self._tracks)
    classes = [track.first_class for track in tracks]
    # A track that comes later does not change those before it.
    colors[ids] = palette.segment_colors(classes)
    return colors

  def names(self) -> list[str]:
    """What stands on track 1, 2, … in a drawing."""
    highest_id = max(self._tracks, default=0)
    # Ids that no track has stay nameless.
    names = [""] * highest_id
    for track in self._tracks.values():
      name = self._class_name(track.first_class)
      place = track.id - 1
      names[place] = f"{name} #{track.id}"
    return names

  def records(self) -> list[dict[str, Any]]:
    """What tracks.json says of each."""
    colors = self.colors()
    records = []
    for track in self._tracks.values():
      records.append({
          "id": track.id,
          "class_id": track.class_id,
          "class": self._class_name(track.class_id),
          "color": colors[track.id].tolist(),
          "first_frame": track.first_frame,
          "last_frame": track.last_frame,
          "num_frames": track.frames_of_class.total(),
      })
    return records

  def _class_name(self, class_id: int) -> str:
    return segments.class_name(class_id, self._categories)


def _pairs(
    panoptic: Int[np.ndarray, "H W 2"],
) -> Sequence[tuple[int, int]]:
  """The (class, id) of each segment of a frame, by id."""
  classes_HW = panoptic[..., 0]
  ids_HW = panoptic[..., 1]
  highest_class = int(classes_HW.max())
  num_classes = highest_class + 1
  # One number for each pair, so that one count finds all.
  numbers_HW = ids_HW * num_classes + classes_HW
  counts = np.bincount(numbers_HW.ravel())
  pairs = []
  for number in np.flatnonzero(counts).tolist():
    track_id, class_id = divmod(number, num_classes)
    if track_id and class_id:
      pairs.append((class_id, track_id))
  return pairs


def draw_frame(
    frame_HWC: np.ndarray,
    panoptic: Int[np.ndarray, "H W 2"],
    tracks: Tracks,
) -> np.ndarray:
  """A frame with its tracks over it, outlined and named.

  Args:
    frame_HWC: uint8.
    panoptic: class and id of each pixel; `tracks` knows it already.
    tracks: of the video.

  Returns:
    uint8 of the size that `overlay.drawing_size` gives.
  """
  from PIL import Image
  height, width, _ = frame_HWC.shape
  size = overlay.drawing_size((height, width))
  photo = overlay.fit_photo(frame_HWC, size)
  ids = resize.resize_nearest(panoptic[..., 1], size)
  color_of_id = tracks.colors()
  drawn = overlay.blend(photo, color_of_id[ids])
  is_border = overlay.find_borders(ids)
  drawn[is_border] = _OUTLINE
  image = Image.fromarray(drawn)
  names = tracks.names()
  overlay.write_names(image, ids, names)
  return np.asarray(image)


def make_mask(
    panoptic: Int[np.ndarray, "H W 2"],
    tracks: Tracks,
) -> Any:
  """A PIL image of 8 bits: the id of each pixel, with a palette of colors."""
  from PIL import Image
  ids_HW = panoptic[..., 1]
  mask = Image.fromarray(ids_HW.astype(np.uint8))
  color_of_id = tracks.colors()
  mask.putpalette(color_of_id.tobytes())
  return mask
