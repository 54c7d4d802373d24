"""Fills a cache of examples: what the tools that write one have in common.

A cache has an array [R, N, …]; see `uvim.store.example_cache`. A *row* is what
it holds for one augmentation of one example. Rows are written one after the
other. If a command is stopped, the next call continues where it was.

R augmentations of an example · N examples · B examples of a batch
"""

import argparse
import dataclasses
import functools
import io
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from tools.prepare import tfds_folder
from uvim import files, progress
from uvim.cli import app
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import example_cache
from uvim.store.example_cache import Cache, Header, Stored

Row = np.ndarray | None  # None: an example that could not be read.
# (first, end) → the rows first, first + 1, …, end - 1. The rows of the first
# augmentation of all examples come first, then those of the second, and so on.
# `first` starts a batch.
MakeRows = Callable[[int, int], Iterable[Row]]

# This file says how far an unfinished cache is. A complete cache lacks it.
PARTIAL = "partial.json"
log = logging.getLogger(__name__)


class _Partial(msgspec.Struct):
  """What `PARTIAL` holds.

  Attributes:
    header: of the cache, so that no other run continues it.
    done: how many rows are on the disk.
  """
  header: Header
  done: Annotated[int, Meta(ge=0)]


class Layout(NamedTuple):
  """The array of a cache.

  Attributes:
    shape: R, N and the shape of one row.
    dtype: of the numbers.
  """
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def num_rows(self) -> int:
    """R · N."""
    return self.shape[0] * self.shape[1]

  @property
  def bytes_per_row(self) -> int:
    """How many bytes of the array one row takes."""
    row_shape = self.shape[2:]
    num_numbers = int(np.prod(row_shape))
    return num_numbers * self.dtype.itemsize

  @property
  def bad_row(self) -> np.ndarray:
    """What stands for an example that could not be read: −1 or NaN."""
    mark = -1 if self.dtype.kind == "i" else np.nan
    return np.full(self.shape[2:], mark, self.dtype)


@dataclasses.dataclass(frozen=True)
class Writer:
  """Writes one cache.

  Attributes:
    cache: its kind.
    folder: where it goes.
    header: of the run, with the fingerprint of the data.
    layout: of the array.
    batch_size: rows that are computed together.
    save_every: rows between two notes of how far the cache is. After a kill,
      the next run computes at most so many and one batch again.
    lock: of the folder. A writer that has lost it stops at its next note.
  """
  cache: Cache
  folder: pathlib.Path
  header: Header
  layout: Layout
  batch_size: int
  save_every: int
  lock: Lock

  @property
  def _array_path(self) -> pathlib.Path:
    return self.folder / self.cache.array_file

  @property
  def bytes_left(self) -> int:
    """How many bytes of the array `fill` has to write, before it does.

    Raises:
      ConfigError: another array in that folder.
    """
    num_left = self.layout.num_rows - self._num_found
    return num_left * self.layout.bytes_per_row

  def fill(self, make_rows: MakeRows) -> None:
    """Writes the rows that are missing, then the header.

    Args:
      make_rows: computes them.

    Raises:
      ConfigError: another array in that folder, a disk that is too small or
        fails.
    """
    num_rows = self.layout.num_rows
    tfds_folder.check_space(
        str(self.folder), num_rows, self.bytes_left, option="--out")
    num_done = self._num_found
    # A batch is computed as a whole, so only whole batches count as done.
    num_done -= num_done % self.batch_size
    what = self.cache.what
    rows = progress.bar(
        make_rows(num_done, num_rows), total=num_rows - num_done,
        label=what.capitalize(), unit=what)
    try:
      self._append(rows, num_done)
    except OSError as error:
      raise ConfigError(
          f"--out: {str(self.folder)!r} cannot be written: {error}. The same "
          "command goes on.") from error

  @functools.cached_property
  def _num_found(self) -> int:
    """How many rows an earlier run of the same command has written.

    It is looked up once: what is wrong with the note is said once.
    """
    array_is_there = self._array_path.exists()
    if array_is_there and not (self.folder / PARTIAL).exists():
      raise ConfigError(
          f"--out: {str(self._array_path)!r} is there, but nothing that says "
          "what it is. Choose another folder, or delete it.")
    partial = self._read_partial()
    if partial is None or not array_is_there:
      return 0
    check_same_run(self.cache, self.folder, partial.header, self.header)
    # The file may be shorter than the note says. Trust what is there: a reader
    # would take missing rows for zeros.
    num_bytes = self._array_path.stat().st_size - _header_bytes(self.layout)
    num_there = max(0, num_bytes // self.layout.bytes_per_row)
    return min(partial.done, num_there, self.layout.num_rows)

  def _read_partial(self) -> _Partial | None:
    """The note of an earlier run; None if there is none, or it is damaged."""
    path = self.folder / PARTIAL
    content = files.read_json(path)
    if content is None:
      return None
    try:
      return msgspec.convert(content, _Partial)
    except msgspec.ValidationError as error:
      log.warning("%s is damaged (%s); all %s are computed again.", path, error,
                  self.cache.what)
      return None

  def _note(self, num_done: int) -> None:
    """Says how far the cache is."""
    partial = {"header": self.header, "done": num_done}
    files.write_json(self.folder / PARTIAL, partial, indent=1)

  def _append(self, rows: Iterable[Row], first: int) -> None:
    """Writes rows from number `first` on, then the header.

    The file is written, not mapped: on a full disk a mapped page would kill the
    process. It grows in place, so that a stopped run can go on. The header
    comes last and says that the file is complete.
    """
    self._note(first)
    bad_row = self.layout.bad_row
    mode = "r+b" if first else "wb"
    with open(self._array_path, mode) as file:
      _write_array_header(file, self.layout)
      file.seek(first * self.layout.bytes_per_row, os.SEEK_CUR)
      file.truncate()
      for num_done, row in enumerate(rows, start=first + 1):
        if row is None:
          row = bad_row
        row = row.astype(self.layout.dtype)
        file.write(row.tobytes())
        if num_done % self.save_every == 0:
          self.lock.check()
          _flush_to_disk(file)
          self._note(num_done)
      _flush_to_disk(file)
    self.lock.check()
    self.cache.seal(self.folder, self.header)
    (self.folder / PARTIAL).unlink(missing_ok=True)


def make_parser(command: str, doc: str) -> argparse.ArgumentParser:
  """The parser of a command that writes a cache."""
  parser = app.make_parser(command, doc)
  parser.add_argument("--config", required=True,
                      help="configs/NAME.py[:argument]")
  parser.add_argument("--out", required=True, help="folder of the cache")
  return parser


def load_config(args: argparse.Namespace) -> Any:
  """The TrainConfig that a command line names."""
  # Imported late: a typo on the command line need not wait for JAX.
  from trainers import config_file
  from uvim.config import resolve
  config_file.quiet_absl()
  fields = config_file.load_config(args.config, args.overrides)
  return resolve(fields)


def is_complete(cache: Cache, folder: pathlib.Path, header: Header) -> bool:
  """Whether the cache is complete; says so if it is.

  Raises:
    ConfigError: the folder holds a cache of another run.
  """
  old = example_cache.read_header(folder, "--out")
  if old is None:
    return False
  check_same_run(cache, folder, old, header)
  print(f"{folder} is complete already.")
  return True


def check_same_run(cache: Cache, folder: pathlib.Path, old: Header,
                   header: Header) -> None:
  """Raises a ConfigError if what is in the folder depends on something else."""
  differs = cache.difference(old, header)
  if differs:
    raise ConfigError(
        f"--out: {str(folder)!r} holds a cache of another run. Choose another "
        f"folder, or delete it. There → now: {'; '.join(differs)}.")


def compute(
    run: Callable[[Any, Any], Any],
    arrays: Any,
    config: Any,
    split: Any,
    *,
    first: int,
    end: int,
    unused: tuple[str, ...] = (),
    cached: Mapping[str, Stored] | None = None,
) -> Iterator[Row]:
  """Computes the rows of a cache on all devices of this process.

  Args:
    run: (arrays, batch) → [B, …]; it is jitted here.
    arrays: of the frozen network.
    config: TrainConfig with `codes_per_image`.
    split: the Split of the training examples.
    first, end: see `MakeRows`.
    unused: keys of a batch that `run` does not need.
    cached: key of a batch → what another cache holds for it.

  Yields:
    One row; None for an example that could not be read.

  Raises:
    ConfigError: a batch that the devices cannot share evenly, and whatever the
      data raise.
  """
  import jax

  from evaluators import common
  from uvim.learn import sharding
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh)
  batches = _batches_of(config, split, first, end, unused, cached)

  @jax.jit
  def predict(arrays, batch):
    return {"row": run(arrays, batch)}

  def put(batch):
    return sharding.shard_batch(batch, mesh)

  arrays = jax.device_put(arrays, sharding.replicated(mesh))
  with jax.set_mesh(mesh):
    predictions = common.predict_all(predict, arrays, batches, put=put)
    # The last batch may run over the end.
    for prediction in itertools.islice(predictions, end - first):
      yield None if prediction is None else prediction["row"]


def _batches_of(config, split, first: int, end: int, unused, cached
                ) -> Iterator[Any]:
  """The training batches in which the rows first..end-1 lie."""
  first_step = first // config.batch_size
  end_step = -(-end // config.batch_size)
  preprocess = split.make_preprocess(config.pp_train, config.pp_modules)
  endless_batches = split.train_batches(
      preprocess,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=first_step,
      shuffle=False,
      on_bad_example=config.on_bad_example,
      codes_per_image=config.codes_per_image,
      cached=cached,
      unused=unused)
  return itertools.islice(endless_batches, end_step - first_step)


def _write_array_header(file: BinaryIO, layout: Layout) -> None:
  """The first bytes of a `.npy` file; the numbers follow."""
  fields = {
      "descr": np.lib.format.dtype_to_descr(layout.dtype),
      "fortran_order": False,
      "shape": layout.shape,
  }
  np.lib.format.write_array_header_1_0(file, fields)


def _header_bytes(layout: Layout) -> int:
  """How many bytes `_write_array_header` writes."""
  file = io.BytesIO()
  _write_array_header(file, layout)
  return file.tell()


def _flush_to_disk(file: BinaryIO) -> None:
  file.flush()
  os.fsync(file.fileno())
