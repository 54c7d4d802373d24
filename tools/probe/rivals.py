"""From the logits of the head to what the task's evaluator scores.

B images · H W pixels of the head's labels · N tokens of the encoder's grid,
each a patch of the labels · K classes · P pixels of a patch
"""

import abc
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from uvim.categories import Category
from uvim.registry import ConfigError
from uvim.tasks import base
from uvim.tasks.base import AbstractTask
from uvim.tasks.depth import DepthTask
from uvim.tasks.panoptic import PanopticTask, canonical_order
from uvim.tasks.semantic import SemanticTask
from uvim.typing import Array


@dataclasses.dataclass(frozen=True)
class Rival(abc.ABC):
  """UViM's rival in a task: what the head learns, and what becomes of it.

  Set by each class:
    key: of the one quantity of the task that the head predicts.
    first_class: ids below count as unlabelled.

  Attributes:
    task: with the size and patches of the head.
    categories: of the data set, in the order of the classes.
    min_fraction: segments under this share of the image are dropped; only for
      panoptic segmentation.
  """
  key: ClassVar[str]
  first_class: ClassVar[int] = 0

  task: AbstractTask
  categories: tuple[Category, ...]
  min_fraction: float

  @property
  def num_classes(self) -> int:
    """K."""
    num_classes, _ = self.task.outputs_spec[self.key]
    return num_classes

  def ids(self, batch: base.AnyArrays) -> np.ndarray:
    """The labels of a batch to learn, int32 [B, N, P]; −1: unlabelled."""
    labels = self.task.inputs(batch)["x"]
    ids_BNP = np.array(labels[self.key], np.int32)
    is_known_BNP = (ids_BNP >= self.first_class) & (ids_BNP < self.num_classes)
    ids_BNP[~is_known_BNP] = -1
    return ids_BNP

  def classes(self, logits_BNKP: Array) -> np.ndarray:
    """The likeliest class of each pixel, [B, N, P], among those it learned."""
    taught = logits_BNKP[:, :, self.first_class:]
    classes_BNP = jnp.argmax(taught, axis=2) + self.first_class
    return np.asarray(classes_BNP)

  @abc.abstractmethod
  def outputs(self, logits_BNKP: Array) -> dict[str, np.ndarray]:
    """Predictions [B, H, W, …] as the task's `outputs` names them."""

  def accuracy(self, confusion_KK: np.ndarray) -> dict[str, float]:
    """Further metrics by name.

    Args:
      confusion_KK: int64; how often a pixel of each class (rows) was predicted
        as each class (columns).
    """
    del confusion_KK
    return {}


class PanopticRival(Rival):
  """A class of stuff is one segment, and each region of a class of things."""

  key = "semantics"
  first_class = 1  # 0 is void.

  def outputs(self, logits_BNKP):
    classes_BNP = self.classes(logits_BNKP)
    classes_BHW = base.unpatchify(
        classes_BNP, self.task.input_size, self.task.patch_size)
    maps = [self._segments(classes_HW) for classes_HW in classes_BHW]
    return {"panoptic": np.stack(maps)}

  def _segments(self, classes_HW: np.ndarray) -> np.ndarray:
    """int32 [H, W, 2]: semantics and instances."""
    from scipy import ndimage
    panoptic_HW2 = np.zeros((*classes_HW.shape, 2), np.int32)
    min_area = self.min_fraction * classes_HW.size
    num_segments = 0
    for number in np.unique(classes_HW).tolist():
      parts_HW = (classes_HW == number).astype(np.int32)
      if self.categories[number - 1].isthing:
        parts_HW, _ = ndimage.label(parts_HW)
      areas = np.bincount(parts_HW.ravel())
      for part in range(1, len(areas)):
        if areas[part] >= min_area:
          num_segments += 1
          panoptic_HW2[parts_HW == part] = (number, num_segments)
    # Number the segments as the labels do, so that both are drawn alike.
    return canonical_order(panoptic_HW2)

  def accuracy(self, confusion_KK):
    """Pixel accuracy and mIoU of the head's labels, in percent."""
    true_K = confusion_KK.sum(axis=1)
    predicted_K = confusion_KK.sum(axis=0)
    right_K = np.diag(confusion_KK)
    union_K = true_K + predicted_K - right_K
    # Classes that are neither there nor predicted have no IoU.
    iou = right_K[union_K > 0] / union_K[union_K > 0]
    return {
        "pixel_accuracy": 100 * float(right_K.sum() / true_K.sum()),
        "mIoU": 100 * float(iou.mean()),
    }


class DepthRival(Rival):
  """The head predicts the task's bins, and the task turns them into metres."""

  key = "depth"

  def outputs(self, logits_BNKP):
    outputs = self.task.outputs({self.key: logits_BNKP})
    return {name: np.asarray(output) for name, output in outputs.items()}


RIVALS: dict[type[AbstractTask], type[Rival]] = {
    PanopticTask: PanopticRival,
    SemanticTask: PanopticRival,
    DepthTask: DepthRival,
}


def rival_class(task: type[AbstractTask]) -> type[Rival]:
  """The rival of a task.

  Raises:
    ConfigError: there is none.
  """
  for known, rival in RIVALS.items():
    if issubclass(task, known):
      return rival
  known = " and ".join(rival.key for rival in RIVALS.values())
  raise ConfigError("config.task: the probe predicts classes, so it knows the "
                    f"tasks with {known} alone.")
