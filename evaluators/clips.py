"""Frames of clips, as the evaluators of videos see them.

An example is a frame; `clip/id` tells which clip it belongs to. An instance has
the same id in all frames of its clip, in the truth and, if the model tracks, in
the prediction. So nothing has to be gathered before it is counted: each frame
is counted alone, and the counts of a clip are added up at the end.

Suffixes: H W pixels · V classes, void included.
"""

from typing import Any, ClassVar, NamedTuple

import numpy as np

from evaluators import base
from uvim import pixels, resize
from uvim.registry import ConfigError

_FEATURES = ("clip/id", "panoptic_image", "panoptic_objects")


class TrueFrame(NamedTuple):
  """The truth of a frame.

  Attributes:
    clip_id: of its clip.
    semantics_HW: int32, place in the list of categories, from 1; 0 is void.
    instances_HW: int32, ids that hold for the whole clip; 0 is void.
    is_crowd_HW: bool, things that nobody told apart.
  """
  clip_id: int
  semantics_HW: np.ndarray
  instances_HW: np.ndarray
  is_crowd_HW: np.ndarray


def is_thing_table(split: Any, evaluator: str) -> np.ndarray:
  """Bool [V], which classes of a split are things.

  Raises:
    ConfigError: it has no categories.
  """
  if not split.categories:
    raise ConfigError(f"{split.dataset}: {evaluator} needs a list of "
                      "categories; this data set has none.")
  is_thing = [bool(category.isthing) for category in split.categories]
  return np.array([False, *is_thing])


def true_frame(example: base.Truth, evaluator: str) -> TrueFrame:
  """The truth of a raw example.

  Args:
    example: of a data set of clips; see `pp.clip_records`.
    evaluator: its name, for the message.

  Raises:
    ConfigError: it has other features.
  """
  for feature in _FEATURES:
    if feature not in example:
      raise ConfigError(
          f"{evaluator}: this data set has no {feature!r}; it needs frames of "
          "clips, such as those of rooms/clips.")
  ids_HW = pixels.ids_from_rgb(np.asarray(example["panoptic_image"]))
  objects = example["panoptic_objects"]
  semantics_HW = np.zeros_like(ids_HW)
  is_crowd_HW = np.zeros(ids_HW.shape, bool)
  rows = zip(objects["id"], objects["label"], objects["is_crowd"], strict=True)
  for object_id, label, is_crowd in rows:
    mask_HW = ids_HW == object_id
    semantics_HW[mask_HW] = label + 1
    is_crowd_HW[mask_HW] = is_crowd
  # What is in no list is void.
  instances_HW = np.where(semantics_HW > 0, ids_HW, 0)
  clip_id = int(example["clip/id"])
  return TrueFrame(clip_id, semantics_HW, instances_HW, is_crowd_HW)


def predicted_maps(
    prediction: base.Prediction,
    size: tuple[int, int],
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Semantics and instances of a prediction, int32 [H,W] each.

  Args:
    prediction: has 'panoptic' int [h,w,2].
    size: height and width of the truth.
    num_classes: V.

  Raises:
    ConfigError: a number stands for no class, or is negative.
  """
  # Nearest, because ids cannot be mixed.
  panoptic = resize.resize_nearest(prediction["panoptic"], size)
  semantics_HW, instances_HW = np.moveaxis(panoptic.astype(np.int32), -1, 0)
  highest = semantics_HW.max()
  if panoptic.min() < 0 or highest >= num_classes:
    raise ConfigError(
        f"Predicted classes and instances start at {panoptic.min()}, and "
        f"classes reach {highest}; allowed: 0 or more, and classes up to "
        f"{num_classes - 1}.")
  return semantics_HW, instances_HW


class ClipEvaluator(base.Evaluator):
  """An evaluator of clips, frame by frame.

  Attributes:
    name: of the evaluator, for messages.
    is_thing_V: bool, which classes are things.
  """
  name: ClassVar[str]

  def __init__(self, split: Any):
    """Reads no example.

    Args:
      split: see `base.Evaluator`. It has `.categories`, and its examples are
        frames of clips.

    Raises:
      ConfigError: a data set without categories.
    """
    super().__init__(split)
    self.is_thing_V = is_thing_table(split, self.name)

  def read_truth(self, index: int) -> dict[str, Any]:
    example = self.split.example(index)
    image_id = int(example["image/id"])
    frame = true_frame(example, self.name)
    return {"image/id": image_id, "frame": frame}

  def _maps(
      self, prediction: base.Prediction, true: TrueFrame
  ) -> tuple[np.ndarray, np.ndarray]:
    """Semantics and instances of a prediction, of the size of the truth."""
    size = true.semantics_HW.shape
    return predicted_maps(prediction, size, num_classes=len(self.is_thing_V))
