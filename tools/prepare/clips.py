"""Readers of clips: images with masks whose frames follow each other.

A clip is a folder of frames, in the order of their names. What one frame is
made of, a reader of still images knows; here an instance keeps its id in all
frames of its clip, and a record also holds the maps of the frames before it
(see `pp.clip_records`).

H W pixels of an image · M those of one class
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pp import clip_records
from tools.passes import raise_problems
from tools.prepare import image_files, mask_files, mask_pixels, panoptic
from tools.prepare.mask_files import MaskedImage
from tools.prepare.mask_segments import Maps, present_ids
from tools.prepare.masks import MasksReader
from tools.prepare.panoptic import Segment
from tools.prepare.writer import Found, Target
from uvim.categories import Category

# An id of a segment is `1 + label + _LABELS * instance`.
_LABELS = 256


@dataclasses.dataclass(frozen=True)
class ClipFrame(MaskedImage):
  """A frame of a clip.

  Attributes:
    clip: number of its clip in the split.
    frame: its number in the clip, from 0.
    before: the frames before it that its record holds, the latest last.
  """
  clip: int = 0
  frame: int = 0
  before: tuple[MaskedImage, ...] = ()


# Without `frozen`: see MasksReader.
@dataclasses.dataclass
class ClipsReader(MasksReader):
  """Clips, as one split; another reader says what a mask is."""

  def find(self, target: Target) -> Found:
    categories = self.classes.categories
    # In the order of time, and not shuffled as still images are.
    items = in_clips(self.match())
    found = panoptic.make_found(target, self.split, items, categories)
    return dataclasses.replace(found, features=_make_features(categories))

  def check(self, found: Found) -> None:
    super().check(found)
    raise_problems(_size_problems(found.all_items()), self.option("--images"))

  def make_example(self, position: int, item: ClipFrame) -> dict[str, Any]:
    ids_HW, segments = self._segments(item)
    image = image_files.encoded(item.image, upright=False)
    example = panoptic.make_example(
        image, item.name, position, ids_HW, segments)
    example["panoptic_image/filename"] = item.mask_name
    before = []
    for earlier in item.before:
      earlier_ids_HW, earlier_segments = self._segments(earlier)
      before.append(_encode(earlier_ids_HW, earlier_segments))
    current = _encode(ids_HW, segments)
    void = _encode(np.zeros_like(ids_HW), [])
    fields = clip_records.frame_fields(
        item.clip, item.frame, current, before, void)
    return example | fields

  def _segments(self, item: MaskedImage) -> tuple[np.ndarray, list[Segment]]:
    """The map of ids of one frame, and its segments."""
    maps = self.read_maps(item, mask_pixels.read_file(item.mask))
    return make_segments(maps, self.classes.categories)


def in_clips(images: Sequence[MaskedImage]) -> list[ClipFrame]:
  """Frames, clip by clip, and in each clip in the order of their names."""
  by_folder = collections.defaultdict(list)
  for image in images:
    folder = pathlib.PurePath(image.name).parent.as_posix()
    by_folder[folder].append(image)
  frames = []
  for clip, folder in enumerate(sorted(by_folder)):
    in_order = sorted(by_folder[folder], key=mask_files.name_of)
    for frame, image in enumerate(in_order):
      first = max(0, frame - clip_records.FRAMES_BEFORE)
      before = tuple(in_order[first:frame])
      frames.append(ClipFrame(
          **vars(image), clip=clip, frame=frame, before=before))
  return frames


def _make_features(categories: Sequence[Category]) -> Any:
  """Those of all panoptic data sets, and those of clips."""
  import tensorflow_datasets as tfds
  names = [category.name for category in categories]
  return tfds.features.FeaturesDict({
      **panoptic.make_features(categories),
      **clip_records.make_features(names),
  })


def _size_problems(frames: Sequence[ClipFrame]) -> list[str]:
  """Frames whose size is not that of the first frame of their clip."""
  first_of_clip = {}
  problems = []
  for frame in frames:
    size = image_files.read_size(frame.image, str(frame.image))
    first, first_size = first_of_clip.setdefault(frame.clip, (frame, size))
    if size != first_size:
      height, width = size
      first_height, first_width = first_size
      problems.append(
          f"{frame.image} has height x width {height}x{width}, but "
          f"{first.name} of the same clip has {first_height}x{first_width}.")
  return problems


def _encode(ids_HW: np.ndarray, segments: Sequence[Segment]
            ) -> clip_records.PanopticMap:
  label_of_id = {segment.id: segment.label for segment in segments}
  return clip_records.encode_map(ids_HW, label_of_id)


def make_segments(maps: Maps, categories: Sequence[Category]
                  ) -> tuple[np.ndarray, list[Segment]]:
  """The segments of a frame, with ids that are the same in all frames.

  Stuff is one segment for each class, a thing is one instance. Pixels of a
  thing class that belong to no instance are one crowd.

  Args:
    maps: of the frame; it has instances.
    categories: the classes.

  Returns:
    (int32 [H, W] ids of segments, 0 where there is none; the segments)
  """
  ids_HW = np.zeros(maps.class_HW.shape, np.int32)
  segments = []
  present = set(present_ids(maps.class_HW))
  for label, category in enumerate(categories):
    if category.id not in present:
      continue
    mask_HW = maps.class_HW == category.id
    instance_M = maps.instance_HW[mask_HW]
    if not category.isthing:
      instance_M = np.zeros_like(instance_M)
    id_M = 1 + label + _LABELS * instance_M
    ids_HW[mask_HW] = id_M
    crowd_id = 1 + label
    for segment_id in np.unique(id_M).tolist():
      is_crowd = category.isthing and segment_id == crowd_id
      segments.append(Segment(segment_id, label, is_crowd))
  return ids_HW, segments
