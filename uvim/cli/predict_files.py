"""The pass of `uvim predict` over its images: reads, predicts and writes them.

Three things happen at the same time. Threads read the images of the next batch
and bring them to the size of the model. The main thread runs the model on a
batch. Threads draw and write images that are predicted.

Memory: the images of a batch have at most _MAX_PIXELS together, or the batch is
one image. The same holds for images that are predicted but not written. So at
its peak the pass takes 50 bytes for each pixel of the largest image, or of
_MAX_PIXELS if that is more: 39 where images are written, 3 for a batch that
waits, and 7 where the next one is read. (Panoptic segmentation, one sample.)
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from uvim import lock, opener, progress
from uvim.categories import Category
from uvim.cli import app
from uvim.inference import batching, eval_crop, export, images
from uvim.registry import ConfigError

_MAX_PIXELS = 2**24
# More of them wait for each other, and take more memory.
_MAX_THREADS = 4

# Name of the files, and the image.
Item = tuple[str, pathlib.Path]


def predict_files(uvim: Any, paths: Sequence[pathlib.Path], out: str, *,
                  categories: Sequence[Category] | None = None,
                  overwrite: bool = False,
                  settings: Mapping[str, Any] | None = None,
                  depends_on: Mapping[str, Any] | None = None,
                  max_pixels: int = opener.MAX_PIXELS, num_samples: int = 1,
                  crop: eval_crop.EvalCrop = eval_crop.WHOLE,
                  overlay: bool = False, side_by_side: bool = True,
                  batch_size: int | None = None,
                  **options: Any) -> list[str]:
  """Predicts images and writes each as soon as it is predicted.

  What an earlier process did with the same model and settings stays.

  Args:
    uvim: `uvim.inference.predictor.Predictor`.
    paths: images.
    out: folder.
    categories, overwrite: see `export.Writer`.
    settings: for predictions.json.
    depends_on: what tells this model from others, as JSON.
    max_pixels: a larger image is refused.
    crop: what is cut off every image.
    overlay, side_by_side: see `export.Writer`.
    num_samples, batch_size, **options: of `Predictor.predict`.

  Returns:
    A line for each image that could not be predicted; the others are done.

  Raises:
    ConfigError: an option out of its range; a file that cannot be written;
      the folder holds other predictions.
  """
  drawn_with = {**options, "num_samples": num_samples}
  predicted_with = uvim.check_options(**drawn_with)
  if crop:
    drawn_with["crop"] = str(crop)
  num_kept = 1 if options.get("reduce") else num_samples
  writer = export.Writer(
      out, uvim.task, num_samples=num_kept, categories=categories,
      overwrite=overwrite, overlay=overlay, side_by_side=side_by_side,
      depends_on={**(depends_on or {}), **drawn_with, **_look(
          overlay, side_by_side)})
  with lock.Lock(pathlib.Path(out) / ".predict.lock", f"--out {out}"):
    todo = writer.plan(paths)
    num_done = len(paths) - len(todo)
    if num_done:
      print(f"{num_done} of {len(paths)} images are done already", flush=True)
    size = uvim.images_at_once(len(todo), num_samples, batch_size)
    todo_pass = _Pass(uvim, writer, predicted_with, max_pixels, crop)
    try:
      _run_with_bar(todo_pass, todo, size)
    finally:
      # On any ending: the lists tell what is done.
      writer.close({**(settings or {}), **drawn_with})
  return todo_pass.problems


def _run_with_bar(
    todo_pass: "_Pass", todo: Sequence[Item], size: int) -> None:
  """Predicts and writes images; draws how far it is."""
  with contextlib.closing(todo_pass.run(todo, size)) as predicted:
    for _ in progress.bar(
        predicted, total=len(todo), label="Predicting", unit="images"):
      pass


def _look(overlay: bool, side_by_side: bool) -> dict[str, bool]:
  """How the pictures look, for `depends_on`: nothing if it is the default."""
  if not overlay:
    return {}
  return {"overlay": True, "side_by_side": side_by_side}


# ── Batches ─────────────────────────────────────────────────────────────────


class Batch(NamedTuple):
  """Images that run together, and the size of the program for them."""
  items: list[Item]
  size: int


def plan_batches(
    items: Sequence[Item], size: int, *, max_pixels: int) -> Iterator[Batch]:
  """Yields the images in batches; reads their sizes as they come.

  Args:
    items: the images.
    size: the most images of a batch.
    max_pixels: larger images are refused when they are read.
  """
  waiting = []
  num_pixels = 0
  program_size = 1
  for item in items:
    pixels = _pixels_of_file(item, max_pixels)
    is_full = len(waiting) == size or num_pixels + pixels > _MAX_PIXELS
    if waiting and is_full:
      program_size = min(size, batching.next_power_of_two(len(waiting)))
      yield Batch(waiting, program_size)
      waiting = []
      num_pixels = 0
    waiting.append(item)
    num_pixels += pixels
  if waiting:
    # To compile one more program takes longer than to run a larger one once.
    needed = min(size, batching.next_power_of_two(len(waiting)))
    yield Batch(waiting, max(needed, program_size))


def _pixels_of_file(item: Item, max_pixels: int) -> int:
  _, path = item
  try:
    width, height = images.read_size(path, max_pixels=max_pixels)
  # Whoever reads it says what is wrong.
  except ConfigError:
    return 0
  return width * height


# ── The pass ────────────────────────────────────────────────────────────────


class _Loaded(NamedTuple):
  """An image that was read.

  Attributes:
    name: of its files.
    path: its own.
    stamp: `export.stamp_of` it, from before it was read.
    seen: what the model sees.
  """
  name: str
  path: pathlib.Path
  stamp: list[int]
  seen: Any


class _Reading(NamedTuple):
  """A batch that is being read, a future for each of its images."""
  batch: Batch
  futures: list[futures.Future]


class _Pass:
  """Predicts images with one model into one folder.

  Attributes:
    problems: a line for each image that could not be predicted.
  """

  def __init__(self, uvim: Any, writer: export.Writer,
               settings: Mapping[str, Any], max_pixels: int,
               crop: eval_crop.EvalCrop):
    self._uvim = uvim
    self._writer = writer
    self._settings = settings
    self._max_pixels = max_pixels
    self._crop = crop
    self.problems: list[str] = []
    # What is being written → pixels of all samples.
    self._writing: dict[futures.Future, int] = {}

  def run(self, items: Sequence[Item], size: int) -> Iterator[Item]:
    """Yields the images of each batch that is predicted.

    When it ends, or is closed, all that is predicted is written.

    Args:
      items: the images.
      size: the most images of a batch.
    """
    num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
    batches = plan_batches(items, size, max_pixels=self._max_pixels)
    # Its end waits for all threads.
    with futures.ThreadPoolExecutor(num_threads) as pool:
      reading = self._start_reading(pool, batches)
      try:
        while reading is not None:
          batch = reading.batch
          loaded = self._take_loaded(reading)
          reading = self._start_reading(pool, batches)
          self._predict_and_write(pool, loaded, batch.size)
          yield from batch.items
        self._wait_until_written(0)
      finally:
        # Nobody needs what is not read yet.
        for future in reading.futures if reading else ():
          future.cancel()

  def _start_reading(
      self, pool: futures.Executor, batches: Iterator[Batch],
  ) -> _Reading | None:
    """Lets threads read the next batch; None if there is none."""
    batch = next(batches, None)
    if batch is None:
      return None
    started = [pool.submit(self._load, *item) for item in batch.items]
    return _Reading(batch, started)

  def _load(self, name: str, path: pathlib.Path) -> _Loaded:
    # Before the pixels: a change while they are read is found out then.
    stamp = export.stamp_of(path)
    image = images.read(path, max_pixels=self._max_pixels)
    image = self._crop.cut(image, str(path))
    return _Loaded(name, path, stamp, self._uvim.see(image))

  def _take_loaded(self, reading: _Reading) -> list[_Loaded]:
    """The images of a batch that could be read; waits for them."""
    loaded = []
    pairs = zip(reading.batch.items, reading.futures, strict=True)
    for (_, path), future in pairs:
      try:
        loaded.append(future.result())
      # One broken image does not end the run.
      except ConfigError as error:
        self.problems.append(str(error))
      except Exception as error:
        self._note_if_too_large(path, error)
    return loaded

  def _predict_and_write(
      self, pool: futures.Executor, loaded: Sequence[_Loaded], size: int,
  ) -> None:
    """Predicts a batch; threads write it."""
    for one, prediction in self._predict(loaded, size):
      future = pool.submit(self._write, one, prediction)
      self._writing[future] = self._num_pixels(one)

  def _num_pixels(self, one: _Loaded) -> int:
    """Pixels of all samples of an image."""
    height, width = one.seen.original.shape[:2]
    return height * width * self._settings["num_samples"]

  def _predict(
      self, loaded: Sequence[_Loaded], size: int,
  ) -> Iterator[tuple[_Loaded, Any]]:
    """Yields the images of a batch, each with its prediction."""
    if not loaded:
      return
    seen = [one.seen for one in loaded]
    predictions = self._uvim.predict_seen(seen, self._settings, size)
    num_done = 0
    try:
      for one in loaded:
        # Before it is there: this is what bounds the memory.
        self._wait_until_written(_MAX_PIXELS - self._num_pixels(one))
        yield one, next(predictions)
        num_done += 1
    except Exception as error:
      if size == 1:
        self._note_if_too_large(loaded[0].path, error)
        return
      if not app.is_out_of_memory(error):
        raise
    # Together the others did not fit into the memory. Perhaps they do alone.
    # Not above: an error holds the arrays of those who raised it.
    for one in loaded[num_done:]:
      yield from self._predict([one], 1)

  def _write(self, one: _Loaded, prediction: Any) -> None:
    try:
      self._writer.add(
          one.name, prediction, str(one.path), stamp=one.stamp)
    except Exception as error:
      self._note_if_too_large(one.path, error)

  def _wait_until_written(self, most_pixels: int) -> None:
    """Waits until no more pixels than these are being written, or nothing.

    Raises:
      ConfigError: a file cannot be written.
    """
    while self._writing:
      done, _ = futures.wait(self._writing, 0)
      if not done:
        if sum(self._writing.values()) <= most_pixels:
          return
        done, _ = futures.wait(
            self._writing, return_when=futures.FIRST_COMPLETED)
      for future in done:
        del self._writing[future]
        future.result()

  def _note_if_too_large(self, path: pathlib.Path, error: Exception) -> None:
    """Notes that an image did not fit into the memory, or raises the error."""
    if not app.is_out_of_memory(error):
      raise error
    self.problems.append(f"{path}: too large for the memory.")
