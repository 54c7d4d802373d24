"""Panoptic files in COCO's format for the tests of the reader `coco`."""

import json

import numpy as np

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from uvim import pixels

CUP = 7
FLOOR = 3
CATEGORIES = [{"id": CUP, "name": "cup", "isthing": 1},
              {"id": FLOOR, "name": "floor", "isthing": 0}]
NAME = "mydata/cups"


class RawCoco:
  """A folder of raw files: three images of 8x10 with two segments each."""

  def __init__(self, folder):
    self.folder = folder
    self.data_dir = folder / "out"
    self.data = {"images": [], "annotations": [], "categories": CATEGORIES}
    for number in (30, 10, 20):
      self.add(number)

  def add(self, number):
    floor_id = 70000 + number
    ids_HW = np.full((8, 10), floor_id)
    ids_HW[2:5, 3:9] = 300
    ids_HW[0] = 0
    raw_files.save(self.panoptic(number), pixels.rgb_from_ids(ids_HW))
    raw_files.save(self.image(number), raw_files.plain(number, 8, 10))
    cup = {"id": 300, "category_id": CUP, "iscrowd": 1, "area": 18,
           "bbox": [3, 2, 6, 3]}
    floor = {"id": floor_id, "category_id": FLOOR}
    self.data["images"].append({
        "id": number, "file_name": f"{number}.jpg", "height": 8, "width": 10})
    self.data["annotations"].append({
        "image_id": number, "file_name": f"{number}.png",
        "segments_info": [cup, floor]})

  def image(self, number):
    return self.folder / "images" / f"{number}.jpg"

  def panoptic(self, number):
    return self.folder / "panoptic" / f"{number}.png"

  def argv(self, *extra, name=NAME, split="train", images=None):
    annotations = self.folder / "panoptic.json"
    annotations.write_text(json.dumps(self.data))
    argv = raw_files.arguments(
        "coco", self.data_dir, images=images or self.folder / "images",
        panoptic=self.folder / "panoptic", annotations=annotations, name=name,
        split=split)
    return [*argv, *extra]

  def run(self, *extra, **options):
    return prepare_data.main(self.argv(*extra, **options))

  def failure(self, capsys, *extra, **options):
    """The message of a run that must fail and write nothing."""
    message = raw_files.failure(self.argv(*extra, **options), capsys)
    assert not self.data_dir.exists()
    return message

  def source(self, split="train"):
    return sources.make_source(NAME, split, self.data_dir)
