"""Images with masks for the tests of the readers of masks.

H W pixels of an image
"""

import numpy as np

from tests.tools.prepare import raw_files

CLASSES = "floor\nwall\ncup\nbox\n"
FLOOR, WALL, CUP, BOX = range(4)


def class_map():
  """A floor, two cups that do not touch, and a box: uint8 [H, W]."""
  class_HW = np.full((8, 10), FLOOR, np.uint8)
  class_HW[0] = WALL
  class_HW[2:5, 1:4] = CUP
  class_HW[2:5, 6:9] = CUP
  class_HW[6:8, 4:6] = BOX
  return class_HW


def instance_map():
  """One of the cups has two halves, told apart: uint8 [H, W]; 0 is none."""
  instance_HW = np.zeros((8, 10), np.uint8)
  instance_HW[2:5, 1:4] = 7
  instance_HW[2:5, 6:8] = 8
  instance_HW[2:5, 8:9] = 9
  instance_HW[6:8, 4:6] = 12
  return instance_HW


class RawMasks:
  """Folders of images and masks, and a list of classes."""

  def __init__(self, folder, names=("a", "b", "street/c")):
    self.images = folder / "images"
    self.masks = folder / "masks"
    self.data_dir = folder / "out"
    self.list = folder / "classes.txt"
    self.list.write_text(CLASSES)
    for name in names:
      self.save_image(f"{name}.jpg")
      self.save_mask(f"{name}.png", class_map())

  def save_image(self, name, height=8, width=10):
    path = self.images / name
    raw_files.save(path, raw_files.gradient(height, width))

  def save_mask(self, name, mask, **options):
    """Saves an array or a PIL image; returns its path."""
    path = self.masks / name
    raw_files.save(path, mask, **options)
    return path

  def save_all(self, mask, **options):
    """All masks are this one; returns the path of the first in messages."""
    for name in ("b.png", "street/c.png", "a.png"):
      path = self.save_mask(name, mask, **options)
    return path

  def argv(self, *extra, command="masks", **options):
    defaults = {"images": self.images, "masks": self.masks,
                "classes": self.list, "name": "mine", "split": "train",
                "min_area": 4}
    chosen = defaults | options
    argv = raw_files.arguments(command, self.data_dir, **chosen)
    return [*argv, *extra]

  def failure(self, capsys, *extra, **options):
    """The message of a run that must fail and write nothing."""
    message = raw_files.failure(self.argv(*extra, **options), capsys)
    assert not self.data_dir.exists()
    return message
