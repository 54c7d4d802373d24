"""Writes the oracle's codes of a stage II config, for the trainer to read.

  python -m tools.cache_codes --config configs/lm_….py \\
      --config.oracle.model_init=STAGE_I_WORKDIR \\
      --config.codes_per_image=4 --out DIR [--config.field=value …]

Then train with the same config, `--config.codes_per_image=4` and
`--config.code_cache=DIR`. The batches are those of a run with that
`codes_per_image` and no cache, but neither the oracle nor its labels are
computed. If this command is stopped, the next call goes on where it was. It
runs in one process, on all of its devices.

R augmentations of an example · N examples · L places of a code
"""

import argparse
import dataclasses
import io
import itertools
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from tools.prepare import tfds_folder
from uvim import files, progress
from uvim.cli import app
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import code_cache
from uvim.store.start_from import Store

Code = np.ndarray | None  # None: an example that could not be read.
Header = dict[str, Any]
MakeCodes = Callable[..., Iterable[Code]]

# Says how far an unfinished cache is. It is gone when the cache is complete.
PARTIAL = "partial.json"
log = logging.getLogger(__name__)

# Examples. If a run is killed, as many are computed again at most.
_SAVE_EVERY = 2000


class _Partial(msgspec.Struct):
  """What `PARTIAL` holds.

  Attributes:
    header: of the cache, so that only the same run goes on.
    done: how many codes are on the disk.
  """
  header: Header
  done: Annotated[int, Meta(ge=0)]


class Layout(NamedTuple):
  """The array of `codes.npy`.

  Attributes:
    shape: R, N and the shape of one code.
    dtype: a type of signed integers, since −1 marks a bad example.
  """
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def num_codes(self) -> int:
    """R · N."""
    return self.shape[0] * self.shape[1]

  @property
  def bytes_per_code(self) -> int:
    code_shape = self.shape[2:]
    num_words = int(np.prod(code_shape))
    return num_words * self.dtype.itemsize


def oracle_codes(config, family, oracle: Any, split, *, first: int,
                 last: int) -> Iterator[Code]:
  """Asks the oracle for codes.

  Args:
    config: resolved, of stage II.
    family: of this config.
    oracle: the arrays of its oracle.
    split: the TfdsSplit of the training examples.
    first: number of the first code, counting all examples of the first round,
      then those of the second, and so on. It starts a batch.
    last: the number after that of the last code.

  Yields:
    int32 [L]; None for an example that could not be read.
  """
  import jax

  from evaluators import common
  from uvim.learn import sharding
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh)
  batches = _batches_of(config, split, first, last)

  @jax.jit
  def encode(oracle, batch):
    return {"code": family.oracle.encode(oracle, batch)}

  def put(batch):
    return sharding.shard_batch(batch, mesh)

  oracle = jax.device_put(oracle, sharding.replicated(mesh))
  with jax.set_mesh(mesh):
    predictions = common.predict_all(encode, oracle, batches, put=put)
    # The last batch may run over the end.
    for prediction in itertools.islice(predictions, last - first):
      yield None if prediction is None else prediction["code"]


def _batches_of(config, split, first: int, last: int) -> Iterator[Any]:
  """The training batches in which the codes first..last-1 lie."""
  first_step = first // config.batch_size
  end_step = -(-last // config.batch_size)
  preprocess = split.make_preprocess(config.pp_train, config.pp_modules)
  endless_batches = split.train_batches(
      preprocess,
      batch_size=config.batch_size,
      seed=config.seed,
      start_step=first_step,
      shuffle=False,
      on_bad_example=config.on_bad_example,
      codes_per_image=config.codes_per_image)
  return itertools.islice(endless_batches, end_step - first_step)


def write(config, out: str | os.PathLike, *, store: Store | None = None,
          make_codes: MakeCodes = oracle_codes,
          save_every: int = _SAVE_EVERY) -> pathlib.Path:
  """Fills the cache of a resolved stage II config; see the file's docstring.

  Args:
    config: TrainConfig with `codes_per_image`.
    out: the folder. A cache that is complete stays as it is.
    store: where the oracle is read from; None: disk and network.
    make_codes: gives the codes; as `oracle_codes`.
    save_every: examples between two notes of how far the cache is.

  Returns:
    The folder.

  Raises:
    ConfigError: no stage II config, another cache in that folder, a disk that
      is too small, and whatever the data and the oracle raise.
  """
  folder = pathlib.Path(out)
  with Lock(folder / ".lock", f"--out {folder}") as lock:
    _write(config, folder, store or Store(), make_codes, save_every, lock)
  return folder


def _write(config, folder: pathlib.Path, store: Store, make_codes: MakeCodes,
           save_every: int, lock: Lock) -> None:
  """`write`, while nobody else does."""
  from pp import stream
  family, oracle = _open_oracle(config, store)
  split = stream.open_tfds_split(
      config.dataset, config.train_split, config.data_dir)
  header = code_cache.describe(config, oracle)
  header[code_cache.DATA] = split.fingerprint()
  if _is_complete(folder, header):
    return

  layout = _layout_of(config, family, split.num_examples)
  num_codes = layout.num_codes
  num_bytes = num_codes * layout.bytes_per_code
  tfds_folder.check_space(str(folder), num_codes, num_bytes)
  # A batch is computed as a whole, so only whole batches count as done.
  num_done = _num_done(folder, header, layout)
  num_done -= num_done % config.batch_size
  codes = make_codes(
      config, family, oracle, split, first=num_done, last=num_codes)
  num_left = num_codes - num_done
  codes = progress.bar(codes, total=num_left, label="Codes", unit="codes")
  try:
    _append_codes(folder, codes, header, layout, first=num_done,
                  save_every=save_every, lock=lock)
  except OSError as error:
    raise ConfigError(f"--out: {str(folder)!r} cannot be written: {error}. The "
                      "same command goes on.") from error


def _open_oracle(config, store: Store) -> tuple[Any, Any]:
  """(the family of the config, the arrays of its oracle)."""
  from trainers.families import make_family
  if config.kind != "lm":
    raise ConfigError(f"--config is of kind {config.kind!r}; only a prior "
                      "(kind 'lm') learns codes that can be kept.")
  # Neither the weights that the prior starts from nor an old cache are read.
  config = dataclasses.replace(config, model_init=None, code_cache=None)
  family = make_family(config)
  return family, family.open(store).frozen


def _layout_of(config, family, num_examples: int) -> Layout:
  """What `codes.npy` holds; a ConfigError for codes without words."""
  spec = family.oracle.model.spec
  if not spec.is_discrete:
    raise ConfigError("config.oracle.model.quantizer writes no words; only "
                      "codes of words can be kept.")
  is_small = spec.num_words < 2**15
  dtype = np.dtype(np.int16 if is_small else np.int32)
  return Layout((config.codes_per_image, num_examples, *spec.shape), dtype)


def _is_complete(folder: pathlib.Path, header: Header) -> bool:
  """Whether the cache is complete; a ConfigError if it is of another run."""
  old = code_cache.read_header(folder, "--out")
  if old is None:
    return False
  _check_same_run(folder, old, header)
  print(f"{folder} is complete already.")
  return True


def _check_same_run(folder: pathlib.Path, old: Header, header: Header) -> None:
  """Raises a ConfigError if what is in the folder depends on something else."""
  differs = code_cache.difference(old, header)
  if differs:
    raise ConfigError(
        f"--out: {str(folder)!r} holds a cache of another run. Choose another "
        "folder, or delete it. There → now:\n  " + "\n  ".join(differs))


def _num_done(folder: pathlib.Path, header: Header, layout: Layout) -> int:
  """How many codes an earlier run of the same command has written."""
  codes_path = folder / code_cache.CODES
  codes_are_there = codes_path.exists()
  if codes_are_there and not (folder / PARTIAL).exists():
    raise ConfigError(
        f"--out: {str(codes_path)!r} is there, but nothing that says what "
        "it is. Choose another folder, or delete it.")
  partial = _read_partial(folder / PARTIAL)
  if partial is None or not codes_are_there:
    return 0
  _check_same_run(folder, partial.header, header)
  # Where codes are missing, zeros would be read.
  num_bytes = codes_path.stat().st_size - _header_bytes(layout)
  num_there = max(0, num_bytes // layout.bytes_per_code)
  return min(partial.done, num_there, layout.num_codes)


def _read_partial(path: pathlib.Path) -> _Partial | None:
  """The note of an earlier run; None if there is none, or it is damaged."""
  content = files.read_json(path)
  if content is None:
    return None
  try:
    return msgspec.convert(content, _Partial)
  except msgspec.ValidationError as error:
    log.warning("%s is damaged (%s); all codes are computed again.", path,
                error)
    return None


def _append_codes(folder: pathlib.Path, codes: Iterable[Code], header: Header,
                  layout: Layout, *, first: int, save_every: int,
                  lock: Lock) -> None:
  """Writes codes to `codes.npy` from number `first` on, then the header.

  The file is written, not mapped: on a full disk a mapped page would kill the
  process. It grows in place, so that a stopped run can go on. The header comes
  last and says that the file is complete. Whoever lost the lock stops at the
  next note.
  """
  partial = {"header": header, "done": first}
  files.write_json(folder / PARTIAL, partial, indent=1)
  bad_code = np.full(layout.shape[2:], -1, layout.dtype)
  mode = "r+b" if first else "wb"
  with open(folder / code_cache.CODES, mode) as file:
    _write_array_header(file, layout)
    file.seek(first * layout.bytes_per_code, os.SEEK_CUR)
    file.truncate()
    for num_done, code in enumerate(codes, start=first + 1):
      if code is None:
        code = bad_code
      code = code.astype(layout.dtype)
      file.write(code.tobytes())
      if num_done % save_every == 0:
        lock.check()
        _flush_to_disk(file)
        partial = {"header": header, "done": num_done}
        files.write_json(folder / PARTIAL, partial, indent=1)
    _flush_to_disk(file)
  lock.check()
  crc32 = code_cache.crc32_of(folder / code_cache.CODES)
  header = {**header, code_cache.CRC32: crc32}
  files.write_json(folder / code_cache.HEADER, header, indent=1)
  (folder / PARTIAL).unlink(missing_ok=True)


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


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.cache_codes", __doc__)
  parser.add_argument("--config", required=True,
                      help="configs/lm_….py[:argument]")
  parser.add_argument("--out", required=True, help="folder of the cache")
  return app.run(parser, cache_codes, argv, takes_overrides=True)


def cache_codes(args: argparse.Namespace) -> None:
  """What the command does."""
  # Imported late: a typo on the command line need not wait for JAX.
  from trainers import config_file
  from uvim.config import resolve
  config_file.quiet_absl()
  fields = config_file.load_config(args.config, args.overrides)
  config = resolve(fields)
  folder = write(config, args.out)
  print(f"Codes in {folder}; train with --config.code_cache={folder} and "
        "everything else as here.")


if __name__ == "__main__":
  sys.exit(main())
