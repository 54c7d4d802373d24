"""Predictions as files, in the standard format of their task.

Below OUT, or with S > 1 below OUT/sample0, OUT/sample1, …:
  panoptic      panoptic/NAME.png, id = R + 256 G + 65536 B, and panoptic.json
                in COCO's schema, which the official evaluation reads
  depth         depth/NAME.png, 16 bits, millimetres
  colorization  color/NAME.png, RGB
  other tasks   OUTPUT/NAME.npy, the arrays
  all           pictures/NAME.png, photograph and prediction side by side
and OUT/predictions.json: settings, codes and their log-likelihoods.

H W pixels of a picture
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from uvim.inference import images
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError

PICTURE_SIDE = 1024  # Of the pictures to look at, in pixels.
SUMMARY = "predictions.json"
_PANOPTIC = "panoptic.json"


class Writer:
  """Writes predictions one photograph at a time; `close` writes the lists."""

  def __init__(self, folder: str | os.PathLike, *, num_samples: int = 1,
               categories: Sequence[Any] | None = None,
               overwrite: bool = False):
    """Writes nothing yet; arguments as in `Prediction.save`."""
    self._folder = pathlib.Path(folder)
    self._folders = [self._folder] if num_samples == 1 else [
        self._folder / f"sample{s}" for s in range(num_samples)]
    self._categories = categories
    self._overwrite = overwrite
    self._summary, self._records = [], [[] for _ in self._folders]
    self._images = []

  def check(self, names: Iterable[str], keys: Iterable[str]) -> None:
    """Raises a ConfigError if any file for these names is there already."""
    if self._overwrite:
      return
    there = [p for p in self._planned(names, keys) if p.exists()]
    if there:
      more = f" and {len(there) - 1} more" if len(there) > 1 else ""
      raise ConfigError(f"{there[0]}{more}: there already; nothing is "
                        "overwritten unless asked for (overwrite).")

  def _planned(self, names, keys):
    yield self._folder / SUMMARY
    for folder in self._folders:
      if "panoptic" in keys:
        yield folder / _PANOPTIC
      for name in names:
        for key in (*keys, "pictures"):
          ending = "png" if key in (*_WRITERS, "pictures") else "npy"
          yield folder / key / f"{name}.{ending}"

  def add(self, name: str, prediction: Prediction,
          source: str | None = None) -> None:
    """Writes the samples of one photograph.

    Args:
      name: of its files, without an ending; whole numbers become COCO's
        image ids.
      prediction: of this photograph alone.
      source: the photograph's path, for the lists.

    Raises:
      ConfigError: a file is there, or cannot be written.
    """
    self.check([name], prediction.outputs)
    height, width = prediction.photos[0].shape[:2]
    number = int(name) if name.isdecimal() else len(self._images) + 1
    self._images.append({"id": number, "file_name": source or name,
                         "height": height, "width": width})
    drawn = prediction.pictures()[0]
    for s, folder in enumerate(self._folders):
      for key, arrays in prediction.outputs.items():
        write = _WRITERS.get(key, _write_array)
        record = write(folder / key, name, arrays[0][s], self._categories)
        if record:
          self._records[s].append({"image_id": number, **record})
      look = _beside(images.to_bytes(prediction.photos[0]), drawn[s])
      _write_png(folder / "pictures" / f"{name}.png", look)
    entry = {"name": name, "file": source or name, "height": height,
             "width": width, "codes": prediction.codes[0].tolist()}
    if prediction.logprob is not None:
      entry["log_likelihood"] = prediction.log_likelihood[0].tolist()
    self._summary.append(entry)

  def close(self, settings: Mapping[str, Any]) -> None:
    """Writes the lists; `settings` is all that the numbers depend on."""
    for folder, records in zip(self._folders, self._records, strict=True):
      if records:
        _write_json(folder / _PANOPTIC, {
            "images": self._images, "annotations": records,
            "categories": self._category_records()})
    _write_json(self._folder / SUMMARY,
                {"settings": dict(settings), "images": self._summary})

  def _category_records(self):
    return [{"id": c.id, "name": c.name, "isthing": int(c.isthing)}
            for c in self._categories or ()]


def _write_panoptic(folder, name, x, categories) -> dict[str, Any]:
  """The PNG of the ids; returns its record for the JSON.

  A segment is a (class, instance) pair; class 0 is void.
  """
  sem_HW, ins_HW = x[..., 0].astype(np.int64), x[..., 1].astype(np.int64)
  if categories is not None and sem_HW.max() > len(categories):
    raise ConfigError(f"Class {sem_HW.max()} was predicted, but there are "
                      f"{len(categories)} categories.")
  stride = int(ins_HW.max()) + 1
  pairs, index = np.unique(
      np.where(sem_HW > 0, sem_HW * stride + ins_HW, 0), return_inverse=True)
  # Numbered 1, 2, …; 0 stays 0.
  ids = np.where(pairs > 0, np.arange(len(pairs)) + (pairs[0] > 0), 0)
  ids_HW = ids[index].reshape(sem_HW.shape)
  segments = []
  for number, pair in zip(ids.tolist(), pairs.tolist(), strict=True):
    if number:
      label = pair // stride
      segments.append({
          "id": number, "category_id": label if categories is None
          else categories[label - 1].id, "iscrowd": 0,
          **_extent(ids_HW == number)})
  rgb = np.stack([ids_HW >> shift & 255 for shift in (0, 8, 16)], -1)
  _write_png(folder / f"{name}.png", rgb.astype(np.uint8))
  return {"file_name": f"{name}.png", "segments_info": segments}


def _extent(mask_HW) -> dict[str, Any]:
  """COCO's area and bbox (left, top, width, height)."""
  rows, columns = (np.flatnonzero(mask_HW.any(axis)) for axis in (1, 0))
  return {"area": int(mask_HW.sum()), "bbox": [
      int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1),
      int(rows[-1] - rows[0] + 1)]}


def _write_depth(folder, name, x, categories):
  del categories
  millimetres = np.clip(np.rint(x.astype(np.float64) * 1000), 0, 65535)
  _write_png(folder / f"{name}.png", millimetres.astype(np.uint16))


def _write_color(folder, name, x, categories):
  del categories
  _write_png(folder / f"{name}.png", images.to_bytes(x))


def _write_array(folder, name, x, categories):
  del categories
  _write(folder / f"{name}.npy", lambda file: np.save(file, x))


_WRITERS = {"panoptic": _write_panoptic, "depth": _write_depth,
            "color": _write_color}


def _beside(photo, drawn):
  """Both in one picture of a size to look at."""
  return np.concatenate(
      [images.fit(photo, PICTURE_SIDE), images.fit(drawn, PICTURE_SIDE)], 1)


def _write_png(path: pathlib.Path, array: np.ndarray) -> None:
  from PIL import Image
  _write(path, lambda file: Image.fromarray(array).save(file, "PNG"))


def _write_json(path: pathlib.Path, content: Any) -> None:
  # One item of a list per line: a code of 256 words is one line of text.
  parts = []
  for key, value in content.items():
    text = json.dumps(value)
    if isinstance(value, list):
      text = "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    parts.append(f"{json.dumps(key)}: {text}")
  text = "{" + ",\n".join(parts) + "}\n"
  _write(path, lambda file: file.write(text.encode()))


def _write(path: pathlib.Path, save: Callable[[Any], Any]) -> None:
  """Under another name first: a reader never sees half a file."""
  partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(partial, "wb") as file:
      save(file)
    os.replace(partial, path)
  except OSError as e:
    raise ConfigError(f"Cannot write {path}: {e.strerror or e}.") from e
  finally:
    with contextlib.suppress(OSError):
      partial.unlink()
