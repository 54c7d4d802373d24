"""Ops on frames of clips; see `pp.clip_records` for the features.

Dimensions: H W pixels.
"""

import tensorflow as tf

from pp.builder import get, register
from pp.clip_records import MAP_KEYS
from pp.ops.labels import coco_panoptic

_NUMBERS = ("clip/id", "clip/frame")


@register()
def clip_panoptic():
  """Panoptic maps of a frame and of those before it → labels of each.

  Reads `panoptic_image`, `clip/image_1`, `clip/image_2` (uint8 [H, W, 3]) and
  `clip/objects`. Writes

  * `labels`, int32 [H, W, 2]: label + 1 and place in `clip/objects`, from 1;
    both are 0 where a pixel's id is not in the list (void).
  * `labels_before`, int32 [H, W, 4]: those of the frame before the last, then
    those of the last frame. An instance has the same number in all three.
  * `clip/id` and `clip/frame` as int32, which devices take.
  """
  read_map = coco_panoptic()

  def fn(data):
    objects = get(data, "clip/objects")

    def labels_of(key):
      """The two channels of one map, int32 [H, W, 1] each."""
      channels = read_map({
          "panoptic_image": get(data, key),
          "panoptic_objects": objects,
      })
      return [channels["semantics"], channels["instances"]]

    labels_before = []
    # The earliest first, as the model takes them.
    for key in reversed(MAP_KEYS):
      labels_before += labels_of(key)
    labels = labels_of("panoptic_image")
    out = dict(data)
    out["labels"] = tf.concat(labels, -1)
    out["labels_before"] = tf.concat(labels_before, -1)
    for key in _NUMBERS:
      out[key] = tf.cast(get(data, key), tf.int32)
    return out

  return fn
