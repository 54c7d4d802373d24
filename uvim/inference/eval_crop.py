"""The part of an image that an evaluation shows the model.

The preprocessing string of a run may cut an image before it is resized:
`nyu_eval_crop` takes the scored part of a frame of NYU Depth V2, `central_crop`
a square. A prediction sees whole images unless it is told otherwise, so a model
may see the same file differently in both.

  crop = eval_crop.of_run(uvim.preprocessing)
  prediction = uvim.predict(crop.cut(images.read("frame.png")))

H W pixels of an image · C channels
"""

import dataclasses
import re

import numpy as np

from uvim.registry import ConfigError

# An op of a preprocessing string that cuts: its name, and maybe an argument.
_CUTS = re.compile(r"(nyu_eval_crop|central_crop)\b.*")
_NYU = re.compile(r"nyu_eval_crop(\((top\s*=\s*)?(?P<top>\d+)\))?")
_SQUARE = re.compile(r"central_crop(\(\))?")
# Eigen et al. (2014) score a part of each frame: height and width, from row 45
# unless the op says another.
_NYU_FRAME = (480, 640)
_NYU_PART = (426, 560)
_NYU_TOP = 45
_NYU_LEFT = 41


@dataclasses.dataclass(frozen=True)
class EvalCrop:
  """What an evaluation cuts out of its images; false if it shows all of them.

  Attributes:
    ops: the ops that cut, in their order, as the preprocessing string has them.
  """
  ops: tuple[str, ...] = ()

  def __bool__(self) -> bool:
    return bool(self.ops)

  def __str__(self) -> str:
    return ", ".join(self.ops)

  def cut(self, image_HWC: np.ndarray, name: str = "the image"
          ) -> np.ndarray:
    """The part that the evaluation shows, as a view.

    Args:
      image_HWC: [H, W, C] of any dtype.
      name: starts the message.

    Raises:
      ConfigError: the evaluation is for images of another size, or cuts in a
        way that is unknown here.
    """
    for op in self.ops:
      image_HWC = _cut(op, image_HWC, name)
    return image_HWC


WHOLE = EvalCrop()  # Nothing is cut off.


def of_run(preprocessing: str) -> EvalCrop:
  """What a preprocessing string cuts off before it resizes.

  Args:
    preprocessing: such as 'decode|nyu_eval_crop|resize(512)|…'.
  """
  found = []
  for op in preprocessing.split("|"):
    op = op.strip()
    # What follows cuts other pixels than those of the file.
    if op.startswith("resize"):
      break
    if _CUTS.fullmatch(op):
      found.append(op)
  return EvalCrop(tuple(found))


def _cut(op: str, image_HWC: np.ndarray, name: str) -> np.ndarray:
  """What one op leaves of an image."""
  nyu = _NYU.fullmatch(op)
  if nyu:
    return _cut_nyu(image_HWC, int(nyu["top"] or _NYU_TOP), name)
  if _SQUARE.fullmatch(op):
    return _cut_square(image_HWC)
  raise ConfigError(f"{name}: the evaluation of this model cuts with {op!r}; "
                    "known here: nyu_eval_crop(top=ROW), central_crop.")


def _cut_nyu(image_HWC: np.ndarray, top: int, name: str) -> np.ndarray:
  height, width = image_HWC.shape[:2]
  if (height, width) != _NYU_FRAME:
    raise ConfigError(
        f"{name}: has {height}×{width} pixels; the evaluation of this model "
        "cuts frames of 480×640, as NYU Depth V2 has them.")
  part_height, part_width = _NYU_PART
  return image_HWC[top:top + part_height, _NYU_LEFT:_NYU_LEFT + part_width]


def _cut_square(image_HWC: np.ndarray) -> np.ndarray:
  """The largest square in the middle."""
  height, width = image_HWC.shape[:2]
  side = min(height, width)
  top = (height - side) // 2
  left = (width - side) // 2
  return image_HWC[top:top + side, left:left + side]
