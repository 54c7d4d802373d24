"""Predictions as files, in the standard format of their task.

Below OUT, or with S > 1 below OUT/sample0, OUT/sample1, …:
  OUTPUT/NAME.ENDING  an output of the task, in the task's own format:
                      panoptic    PNG, id = R + 256 G + 65536 B
                      depth       PNG of 16 bits, millimetres
                      color       PNG, RGB
                      normals     NPY
  panoptic.json       panoptic: COCO's schema, which the official evaluation
                      reads
  pictures/NAME.png   image and prediction side by side
and OUT/predictions.json: settings, codes and their log-likelihoods.

S samples per image · H W pixels of an image
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uvim import resize
from uvim.inference import images
from uvim.registry import ConfigError
from uvim.tasks import output_files
from uvim.tasks.base import AbstractTask

PICTURE_SIDE = 1024  # Pixels of the long side of an image to look at.
SUMMARY = "predictions.json"
_PICTURES = "pictures"


class Writer:
  """Writes predictions one image at a time; `close` writes the lists."""

  def __init__(self, folder: str | os.PathLike, task: AbstractTask, *,
               num_samples: int = 1, categories: Sequence[Any] | None = None,
               overwrite: bool = False):
    """Writes nothing yet.

    Args:
      folder: OUT.
      task: of the predictions.
      num_samples: S of every prediction.
      categories: as in `Prediction.save`.
      overwrite: replaces files that are there.
    """
    self._folder = pathlib.Path(folder)
    self._task = task
    self._categories = categories
    self._overwrite = overwrite
    self._folders = [self._folder]
    if num_samples > 1:
      self._folders = [self._folder / f"sample{s}" for s in range(num_samples)]
    # `close` writes these. The first two have a row for each image. The last
    # has, for each sample, what the task wants to list.
    self._images = []
    self._summary = []
    self._records = [[] for _ in self._folders]

  def check(self, names: Iterable[str]) -> None:
    """Raises a ConfigError if any file for these names is there already."""
    if self._overwrite:
      return
    present = [path for path in self._planned(names) if path.exists()]
    if present:
      more = ""
      if len(present) > 1:
        more = f" and {len(present) - 1} more"
      raise ConfigError(f"{present[0]}{more}: there already; nothing is "
                        "overwritten unless asked for (overwrite).")

  def _planned(self, names: Iterable[str]) -> Iterator[pathlib.Path]:
    """All files that the predictions of these names make."""
    yield self._folder / SUMMARY
    for folder in self._folders:
      if self._task.list_file:
        yield folder / self._task.list_file
      for name in names:
        for key in self._task.output_keys:
          yield self._output_path(folder, key, name)
        yield self._picture_path(folder, name)

  def _output_path(self, folder, key, name) -> pathlib.Path:
    return folder / key / f"{name}.{self._task.file_ending}"

  def _picture_path(self, folder, name) -> pathlib.Path:
    return folder / _PICTURES / f"{name}.png"

  def add(self, name: str, prediction: Any, source: str | None = None) -> None:
    """Writes the samples of one image.

    Args:
      name: of its files, without an ending; whole numbers become COCO's
        image ids.
      prediction: a `Prediction` of this image alone.
      source: the image's path, for the lists.

    Raises:
      ConfigError: a file is there, or cannot be written.
    """
    self.check([name])
    image = prediction.photos[0]
    height, width = image.shape[:2]
    # COCO's ids are whole numbers. A name like 000000000139 is one already.
    image_id = len(self._images) + 1
    if name.isdecimal():
      image_id = int(name)
    self._images.append({"id": image_id, "file_name": source or name,
                         "height": height, "width": width})
    # [0] is the only image of this prediction; each array has its samples
    # first.
    image_bytes = resize.to_bytes(image)
    drawings = prediction.pictures()[0]
    for s, folder in enumerate(self._folders):
      outputs = {key: arrays[0][s]
                 for key, arrays in prediction.outputs.items()}
      self._records[s] += self._write_outputs(folder, name, outputs, image_id)
      output_files.write_png(self._picture_path(folder, name),
                             _beside(image_bytes, drawings[s]))
    self._summary.append({"name": name, "file": source or name,
                          "height": height, "width": width,
                          **_code_entry(prediction)})

  def _write_outputs(self, folder, name, outputs, image_id
                     ) -> list[dict[str, Any]]:
    """Writes one sample; returns what the task's list needs to know."""
    records = []
    for key, output in outputs.items():
      path = self._output_path(folder, key, name)
      record = self._task.write(path, output, self._categories)
      # Most tasks have no list and return None.
      if record is not None:
        records.append({"image_id": image_id, **record})
    return records

  def close(self, settings: Mapping[str, Any]) -> None:
    """Writes the lists; `settings` is what the predictions depend on."""
    for folder, records in zip(self._folders, self._records, strict=True):
      # A task without a list has no records, and its `list_file` is None.
      if records:
        self._task.write_list(folder / self._task.list_file, self._images,
                              records, self._categories)
    output_files.write_json(
        self._folder / SUMMARY,
        {"settings": dict(settings), "images": self._summary})


def _code_entry(prediction: Any) -> dict[str, Any]:
  """The codes [S, L] of one image and their log-likelihoods [S], if any."""
  entry = {}
  if prediction.codes is not None:
    entry["codes"] = prediction.codes[0].tolist()
  if prediction.logprob is not None:
    entry["log_likelihood"] = prediction.log_likelihood[0].tolist()
  return entry


def _beside(image_HWC: np.ndarray, drawing_HWC: np.ndarray) -> np.ndarray:
  """Both images side by side, small enough to look at."""
  # Both have the size of the image, so they are still equal after the fit.
  left = images.fit(image_HWC, PICTURE_SIDE)
  right = images.fit(drawing_HWC, PICTURE_SIDE)
  return np.concatenate([left, right], axis=1)
