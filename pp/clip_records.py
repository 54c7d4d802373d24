"""What the record of a frame of a clip holds, besides that of a still image.

One record is one frame. It also holds the panoptic maps of the frames before
it, so that a frame can be read alone, in any order:

  clip/id, clip/frame       numbers of the clip and of the frame in it
  clip/image_1              panoptic map of the frame before
  clip/image_2              of the frame before that
  clip/objects              `id` and `label` of all objects in the three maps

Where there is no such frame, its map is void: 0 everywhere. The id of an
instance is the same in all maps of a clip. The op `clip_panoptic` (in
`pp.ops.clips`) makes labels of them.

TensorFlow is imported where it is needed: `pp.rooms` renders without.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from uvim import pixels

# Of the maps of the frames before, the latest first.
MAP_KEYS = ("clip/image_1", "clip/image_2")
FRAMES_BEFORE = len(MAP_KEYS)


class PanopticMap(NamedTuple):
  """The panoptic map of one frame.

  Attributes:
    png: an encoded map of ids, R + 256 G + 65536 B; 0 is void.
    label_of_id: id → label of each of its objects.
  """
  png: bytes
  label_of_id: dict[int, int]


def encode_map(
    ids_HW: np.ndarray,
    label_of_id: dict[int, int],
    compress_level: int = 6,
) -> PanopticMap:
  """The PanopticMap of a map of ids.

  Args:
    ids_HW: integers, 0 is void.
    label_of_id: id → label of each object.
    compress_level: of zlib, 0 to 9.
  """
  colors = pixels.rgb_from_ids(ids_HW)
  image = Image.fromarray(colors)
  file = io.BytesIO()
  image.save(file, format="png", compress_level=compress_level)
  return PanopticMap(
      png=file.getvalue(),
      label_of_id=label_of_id,
  )


def make_features(label_names: Sequence[str]) -> dict[str, Any]:
  """The TFDS features of `frame_fields`.

  Args:
    label_names: name of each label.
  """
  import tensorflow_datasets as tfds
  objects = tfds.features.Sequence({
      "id": np.int64,
      "label": tfds.features.ClassLabel(names=label_names),
  })
  features = {
      "clip/id": np.int64,
      "clip/frame": np.int64,
      "clip/objects": objects,
  }
  for key in MAP_KEYS:
    features[key] = tfds.features.Image(
        shape=(None, None, 3), encoding_format="png")
  return features


def frame_fields(
    clip_id: int,
    frame: int,
    current: PanopticMap,
    before: Sequence[PanopticMap],
    void: PanopticMap,
) -> dict[str, Any]:
  """The values of the features.

  Args:
    clip_id: number of the clip; no other of the data set has it.
    frame: number of the frame in it, from 0.
    current: the map of this frame.
    before: the maps of all frames before it that are at hand, the latest last.
    void: stands for frames that there are not; of the same size.
  """
  # The first frames have none or few before them.
  padding = FRAMES_BEFORE * [void]
  padded = [*padding, *before]
  latest_last = padded[-FRAMES_BEFORE:]
  latest_first = reversed(latest_last)
  fields = {
      "clip/id": clip_id,
      "clip/frame": frame,
  }
  label_of_id = dict(current.label_of_id)
  for key, panoptic_map in zip(MAP_KEYS, latest_first, strict=True):
    fields[key] = panoptic_map.png
    label_of_id |= panoptic_map.label_of_id
  # In rising order: then the numbers of instances do not depend on the frame
  # as long as the objects are the same.
  ids = sorted(label_of_id)
  labels = [label_of_id[object_id] for object_id in ids]
  fields["clip/objects"] = {
      "id": np.array(ids, np.int64),
      "label": np.array(labels, np.int64),
  }
  return fields
