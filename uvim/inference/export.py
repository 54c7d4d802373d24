"""Predictions as files, in the standard format of their task.

Below OUT, or with S > 1 below OUT/sample0, OUT/sample1, …:
  OUTPUT/NAME.ENDING  an output of the task, in the task's own format:
                      panoptic    PNG, id = R + 256 G + 65536 B
                      depth       PNG of 16 bits, millimetres
                      color       PNG, RGB
                      normals     NPY
  panoptic.json       panoptic: COCO's schema, which the official evaluation
                      reads
  pictures/NAME.png   image and prediction, with names and a legend
and OUT/predictions.json: settings, codes and their log-likelihoods;
OUT/predictions.jsonl: what is done, a line an image, see `journal`.

S samples per image · H W pixels of an image
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from uvim.inference import journal, naming, overlay
from uvim.registry import ConfigError
from uvim.tasks import output_files
from uvim.tasks.base import AbstractTask, Categories
from uvim.tasks.output_files import Path

SUMMARY = "predictions.json"
_PICTURES = "pictures"


class Writer:
  """Writes predictions one image at a time; `close` writes the lists.

  Each image that is done is noted in OUT/predictions.jsonl at once. So a
  process that was killed loses one image, and `plan` goes on.
  """

  def __init__(self, folder: Path, task: AbstractTask, *,
               num_samples: int = 1, categories: Categories = None,
               overwrite: bool = False, overlay: bool = False,
               side_by_side: bool = True,
               depends_on: Mapping[str, Any] | None = None):
    """Writes nothing yet.

    Args:
      folder: OUT.
      task: of the predictions.
      num_samples: S of every prediction.
      categories: of the classes; None: the files have the classes' own
        numbers.
      overwrite: replaces files that are there.
      overlay, side_by_side: how the pictures look, see
        `overlay.draw_picture`.
      depends_on: for `plan`: what all predictions depend on, such as the
        model and its settings, as JSON.
    """
    self._folder = pathlib.Path(folder)
    self._task = task
    self._categories = categories
    self._overwrite = overwrite
    self._look = {"overlay": overlay, "side_by_side": side_by_side}
    self._depends_on = json.loads(json.dumps(depends_on or {}))
    self._folders = _sample_folders(self._folder, num_samples)
    self._journal = journal.Journal(self._folder)
    self._ids = set()

  def check(self, names: Iterable[str]) -> None:
    """Raises a ConfigError if any file for these names is there already."""
    self._check_absent([*self._lists(), *self._files_of_all(names)])

  def plan(self, paths: Sequence[pathlib.Path]
           ) -> list[tuple[str, pathlib.Path]]:
    """(name, path) of the images that are still to be predicted.

    Goes on with what an earlier process left, if it predicted with the same
    model and settings. Images may have come since.

    Raises:
      ConfigError: another model or other settings made the predictions that
        are there; an image has changed since; a file is in the way.
    """
    if self._journal.path.exists() and not self._overwrite:
      self._go_on()
    path_names = {}
    for named in self._journal.named.values():
      path_names[named.path] = named.name
    images_by_key = {os.path.abspath(path): path for path in paths}
    new = [path for key, path in images_by_key.items()
           if key not in path_names]
    names = naming.file_names(new, taken=self._journal.named)
    new_keys = list(map(os.path.abspath, new))
    self._name(dict(zip(names, new_keys, strict=True)))
    path_names.update(zip(new_keys, names, strict=True))
    todo = []
    for key, path in images_by_key.items():
      name = path_names[key]
      if not self._is_done(name, path):
        todo.append((name, path))
    return todo

  def _go_on(self) -> None:
    self._journal.load()
    there = self._journal.header.depends_on
    if there != self._depends_on and not self._journal.stamps:
      # Nothing is done: an option that came out as wrong binds nobody.
      self._journal.path.unlink()
      self._journal = journal.Journal(self._folder)
      return
    self._ids = {named.id for named in self._journal.named.values()}
    for key in sorted(there.keys() | self._depends_on.keys()):
      before = there.get(key)
      now = self._depends_on.get(key)
      if before != now:
        raise ConfigError(
            f"{self._folder}: holds predictions with {key} = "
            f"{_short(before)}; now {key} = {_short(now)}. Choose another "
            "folder, or --overwrite.")

  def _is_done(self, name: str, path: pathlib.Path) -> bool:
    stamp = self._journal.stamps.get(name)
    is_complete = all(file.exists() for file in self._files_of_all([name]))
    if stamp is None or not is_complete:
      return False
    if stamp != stamp_of(path):
      raise ConfigError(
          f"{path}: has changed since it was predicted into {self._folder}. "
          "Choose another folder, or --overwrite.")
    return True

  def _name(self, keys: Mapping[str, str]) -> None:
    """Notes names with what each stands for; makes the journal if need be."""
    is_new = self._journal.header is None
    if is_new:
      self._check_absent(self._lists())
    self._check_absent(self._files_of_all(keys))
    if is_new:
      self._journal.start(self._depends_on)
      # Lists of replaced predictions would be wrong, and go with them.
      for path in self._lists():
        if path != self._journal.path:
          path.unlink(missing_ok=True)
    rows = []
    for name, key in keys.items():
      image_id = naming.image_id(name, self._ids)
      self._ids.add(image_id)
      rows.append(journal.Named(name, image_id, key))
    self._journal.append(*rows)

  def _check_absent(self, paths: Iterable[pathlib.Path]) -> None:
    if self._overwrite:
      return
    present = [path for path in paths if path.exists()]
    if present:
      more = ""
      if len(present) > 1:
        more = f" and {len(present) - 1} more"
      raise ConfigError(f"{present[0]}{more}: there already; nothing is "
                        "overwritten unless asked for (overwrite).")

  def _lists(self) -> list[pathlib.Path]:
    """The files about all images."""
    lists = [self._folder / SUMMARY, self._journal.path]
    if self._task.list_file:
      for folder in self._folders:
        lists.append(folder / self._task.list_file)
    return lists

  def _files_of_all(self, names: Iterable[str]) -> Iterator[pathlib.Path]:
    """The files that the predictions of these names make."""
    for name in names:
      for folder in self._folders:
        for key in self._task.output_keys:
          yield self._output_path(folder, key, name)
        yield self._picture_path(folder, name)

  def _output_path(self, folder, key, name) -> pathlib.Path:
    file_name = f"{name}.{self._task.file_ending}"
    return folder / key / file_name

  def _picture_path(self, folder, name) -> pathlib.Path:
    return folder / _PICTURES / f"{name}.png"

  def add(self, name: str, prediction: Any, source: str | None = None, *,
          stamp: Sequence[int] = ()) -> None:
    """Writes the samples of one image.

    Args:
      name: of its files, without an ending; whole numbers become COCO's
        image ids.
      prediction: a `Prediction` of this image alone.
      source: the image's path, for the lists.
      stamp: `stamp_of` its file, from before it was read.

    Raises:
      ConfigError: a file is there, or cannot be written.
    """
    if name not in self._journal.named:
      self._name({name: name})
    image = prediction.photos[0]
    height, width = image.shape[:2]
    records = []
    for s, folder in enumerate(self._folders):
      outputs = _outputs_of_sample(prediction, s)
      records.append(self._write_outputs(folder, name, outputs))
      picture = overlay.draw_picture(
          self._task, outputs, image, categories=self._categories,
          **self._look)
      output_files.write_png(
          self._picture_path(folder, name), np.asarray(picture))
    size = {"height": height, "width": width}
    entry = {"name": name, "file": source or name, **size,
             **_code_entry(prediction)}
    self._journal.append(journal.Done(name, list(stamp), entry, records))

  def _write_outputs(self, folder, name, outputs) -> list[dict[str, Any]]:
    """Writes one sample; returns what the task's list needs to know."""
    records = []
    for key, output in outputs.items():
      path = self._output_path(folder, key, name)
      record = self._task.write(path, output, self._categories)
      # Most tasks have no list and return None.
      if record is not None:
        records.append(record)
    return records

  def close(self, settings: Mapping[str, Any]) -> None:
    """Writes the lists of all images that are done, if any.

    Args:
      settings: what the predictions depend on.
    """
    if not self._journal.stamps:
      return
    if self._task.list_file:
      for s, folder in enumerate(self._folders):
        self._write_list(s, folder / self._task.list_file)
    # Read as they are written: all of them might not fit into the memory.
    entries = (done.image for _, done in self._journal.done())
    summary = {"settings": dict(settings), "images": entries}
    output_files.write_json(self._folder / SUMMARY, summary)

  def _write_list(self, s: int, path: pathlib.Path) -> None:
    """Writes the task's list of one sample."""
    self._task.write_list(
        path, self._list_images(), self._list_records(s), self._categories)

  def _list_images(self) -> Iterator[dict[str, Any]]:
    """What the task's list says of each image."""
    for named, done in self._journal.done():
      image = done.image
      yield {"id": named.id, "file_name": image["file"],
             "height": image["height"], "width": image["width"]}

  def _list_records(self, s: int) -> Iterator[dict[str, Any]]:
    """What the task's list says of each prediction of one sample."""
    for named, done in self._journal.done():
      for record in done.records[s]:
        yield {"image_id": named.id, **record}


def check_categories(task: AbstractTask, categories: Categories,
                     where: str) -> None:
  """Raises a ConfigError unless there is a category for each class.

  Args:
    task: has the classes.
    categories: None: nobody knows them, which is allowed.
    where: starts the message.
  """
  if categories is None or task.num_categories is None:
    return
  if len(categories) != task.num_categories:
    raise ConfigError(f"{where}: lists {len(categories)} categories, the model "
                      f"has {task.num_categories} classes.")


def unnamed_classes(task: AbstractTask, categories: Categories,
                    option: str) -> str:
  """A warning if nobody knows what the classes of a task are, or "".

  Args:
    task: may have classes.
    categories: what they stand for; None: nobody knows.
    option: where the user can name them.
  """
  num_classes = task.num_categories
  if num_classes is None or categories is not None:
    return ""
  return (f"the model has {num_classes} classes, but nobody knows what they "
          f"are. Files have the numbers 1 to {num_classes}. {option} names "
          "them.")


def stamp_of(path: pathlib.Path) -> list[int]:
  """[bytes, time of the last change in ns] of a file; [] if there is none."""
  try:
    stat = path.stat()
  except OSError:
    return []
  return [stat.st_size, stat.st_mtime_ns]


def _short(value: Any) -> str:
  """A value for a message of one line."""
  text = json.dumps(value)
  return text if len(text) <= 60 else f"{text[:57]}…"


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
