"""The segments of a prediction: class, name, area, mask, score.

A task with named classes has one output, the class and the instance of each
pixel. A segment is all pixels of one class and one instance.

H W pixels of an image · S segments of it · T segments of another sample
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from uvim.tasks import coco_format
from uvim.tasks.base import AbstractTask, Categories
from uvim.typing import Bool, Int

PairsOfImage = Int[np.ndarray, "H W 2"]


@dataclasses.dataclass(frozen=True)
class Segment:
  """A segment of one image.

  Attributes:
    id: 1, 2, …; the same as in the PNG that `Prediction.save` writes.
    class_id: the model's class, from 1.
    name: of the class; None where nobody knows.
    is_thing: whether the class has instances; None where nobody knows.
    score: the share of the other samples that agree: they have a segment of
      the same class with an IoU above 0.5. None where there is one sample.
    area: in pixels.
    ids: int [H, W], the segment of each pixel; 0 is void.
  """
  id: int
  class_id: int
  name: str | None
  is_thing: bool | None
  score: float | None
  area: int
  ids: Int[np.ndarray, "H W"] = dataclasses.field(repr=False, compare=False)

  @property
  def mask(self) -> Bool[np.ndarray, "H W"]:
    """True at the pixels of the segment."""
    return self.ids == self.id


def pairs_of(task: AbstractTask, outputs: Mapping[str, np.ndarray]
             ) -> np.ndarray | None:
  """Class and instance of each pixel, int [..., 2], 0 is void.

  Args:
    task: of the outputs.
    outputs: of any leading axes.

  Returns:
    None where the task has no classes.
  """
  if task.num_categories is None:
    return None
  pairs = np.asarray(outputs[task.output_keys[0]])
  # In a truth, an unlabelled pixel may be negative.
  return np.maximum(pairs, 0)


def class_name(number: int, categories: Categories) -> str:
  """The name of class 1, 2, …, or "class 7" where nobody knows it."""
  if categories and number <= len(categories):
    return categories[number - 1].name
  return f"class {number}"


def find_segments(pairs_HW2: PairsOfImage,
                  others: Sequence[PairsOfImage] = (), *,
                  categories: Categories = None) -> list[Segment]:
  """The segments of a sample, by class and then by instance.

  Args:
    pairs_HW2: see `pairs_of`.
    others: the other samples of the image, for the scores.
    categories: class c is categories[c - 1]; None or (): nobody knows.
  """
  ids_HW, classes = coco_format.number_segments(pairs_HW2)
  # Number 0 is void.
  areas = np.bincount(ids_HW.reshape(-1), minlength=len(classes) + 1)
  scores = _agreement(ids_HW, classes, others)
  segments = []
  for place, class_id in enumerate(classes):
    name = None
    is_thing = None
    if categories:
      category = categories[class_id - 1]
      name = category.name
      is_thing = bool(category.isthing)
    segments.append(Segment(
        id=place + 1, class_id=class_id, name=name, is_thing=is_thing,
        score=scores[place], area=int(areas[place + 1]), ids=ids_HW))
  return segments


def _agreement(ids_HW, classes, others) -> list[float | None]:
  """For each segment the share of the other samples that have it too."""
  if len(others) == 0:
    return [None] * len(classes)
  num_agree_S = np.zeros(len(classes))
  for other in others:
    num_agree_S += _is_matched(ids_HW, classes, other)
  return (num_agree_S / len(others)).tolist()


def _is_matched(ids_HW, classes, other_HW2) -> Bool[np.ndarray, "S"]:
  """Whether another sample has a segment of this class with an IoU above 0.5.

  At most one can overlap so far.
  """
  other_ids_HW, other_classes = coco_format.number_segments(other_HW2)
  num_rows = len(classes) + 1
  num_columns = len(other_classes) + 1
  # One number for each pair of segments, so that one count does.
  places_HW = ids_HW.astype(np.int64) * num_columns + other_ids_HW
  counts = np.bincount(
      places_HW.reshape(-1), minlength=num_rows * num_columns)
  shared = counts.reshape(num_rows, num_columns)
  areas = shared.sum(1, keepdims=True)
  other_areas = shared.sum(0, keepdims=True)
  union = areas + other_areas - shared
  # Twice the shared pixels, so that all stays whole numbers.
  overlaps = 2 * shared > union
  # Without void.
  overlaps_ST = overlaps[1:, 1:]
  is_same_ST = np.equal.outer(classes, other_classes)
  return (overlaps_ST & is_same_ST).any(1)
