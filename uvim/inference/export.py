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

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from uvim import resize
from uvim.inference import images, naming
from uvim.registry import ConfigError
from uvim.tasks import output_files
from uvim.tasks.base import AbstractTask, Categories
from uvim.tasks.output_files import Path

PICTURE_SIDE = 1024  # Pixels of the long side of an image to look at.
SUMMARY = "predictions.json"
_PICTURES = "pictures"


class Writer:
  """Writes predictions one image at a time; `close` writes the lists."""

  def __init__(self, folder: Path, task: AbstractTask, *,
               num_samples: int = 1, categories: Categories = None,
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
    self._folders = _sample_folders(self._folder, num_samples)
    # `close` writes these. The first two have a row for each image. The last
    # has, for each sample, what the task wants to list.
    self._images = []
    self._ids = set()
    self._summary = []
    self._records = [[] for _ in self._folders]

  def check(self, names: Iterable[str]) -> None:
    """Raises a ConfigError if any file for these names is there already."""
    if self._overwrite:
      return
    present = []
    for path in self._planned(names):
      if path.exists():
        present.append(path)
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
    file_name = f"{name}.{self._task.file_ending}"
    return folder / key / file_name

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
    image_id = naming.image_id(name, self._ids)
    self._ids.add(image_id)
    file = source or name
    size = {"height": height, "width": width}
    self._images.append({"id": image_id, "file_name": file, **size})
    # [0] is the only image of this prediction.
    image_bytes = resize.to_bytes(image)
    drawings = prediction.pictures()[0]
    for s, folder in enumerate(self._folders):
      outputs = _outputs_of_sample(prediction, s)
      records = self._write_outputs(folder, name, outputs, image_id)
      self._records[s] += records
      picture = _beside(image_bytes, drawings[s])
      output_files.write_png(self._picture_path(folder, name), picture)
    codes = _code_entry(prediction)
    self._summary.append({"name": name, "file": file, **size, **codes})

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
        path = folder / self._task.list_file
        self._task.write_list(path, self._images, records, self._categories)
    summary = {"settings": dict(settings), "images": self._summary}
    output_files.write_json(self._folder / SUMMARY, summary)


def _sample_folders(folder: pathlib.Path, num_samples: int
                    ) -> list[pathlib.Path]:
  """Where the outputs of each sample go."""
  if num_samples <= 1:
    return [folder]
  folders = []
  for sample in range(num_samples):
    folders.append(folder / f"sample{sample}")
  return folders


def _outputs_of_sample(prediction: Any, sample: int) -> dict[str, np.ndarray]:
  """The outputs [H, W, …] of one sample of a prediction of one image."""
  outputs = {}
  for key, arrays in prediction.outputs.items():
    # The prediction has one image; its array has the samples first.
    samples = arrays[0]
    outputs[key] = samples[sample]
  return outputs


def _code_entry(prediction: Any) -> dict[str, Any]:
  """The codes [S, L] of one image and their log-likelihoods [S], if any."""
  entry = {}
  if prediction.codes is not None:
    codes_SL = prediction.codes[0]
    entry["codes"] = codes_SL.tolist()
  if prediction.logprob is not None:
    log_likelihood_S = prediction.log_likelihood[0]
    entry["log_likelihood"] = log_likelihood_S.tolist()
  return entry


def _beside(image_HWC: np.ndarray, drawing_HWC: np.ndarray) -> np.ndarray:
  """Both images side by side, small enough to look at."""
  # Both have the size of the image, so they are still equal after the fit.
  left = images.fit(image_HWC, PICTURE_SIDE)
  right = images.fit(drawing_HWC, PICTURE_SIDE)
  return np.concatenate([left, right], axis=1)
