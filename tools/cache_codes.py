"""Writes the oracle's codes of a stage II config, for the trainer to read.

  python -m tools.cache_codes --config configs/lm_….py \\
      --config.oracle.model_init=STAGE_I_WORKDIR \\
      --config.codes_per_image=4 --out DIR [--config.field=value …]

Then train with the same config, `--config.codes_per_image=4` and
`--config.code_cache=DIR`: the batches are those of a run with that
`codes_per_image` and no cache, but neither the oracle nor its labels are
computed. A run that was stopped goes on where it was. One process, all of its
devices.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from tools import passes
from tools.prepare import tfds_folder
from trainers import main as trainer
from uvim.registry import ConfigError
from uvim.store import code_cache

PARTIAL = "partial.json"
_SAVE_EVERY = 2000  # Examples; as many are computed again at most.


def write(config, out: str | os.PathLike) -> pathlib.Path:
  """Fills the cache of a resolved stage II config; see the module's text.

  Args:
    config: TrainConfig with `codes_per_image`.
    out: the folder; of a cache that is there already nothing is changed.

  Returns:
    The folder.

  Raises:
    ConfigError: no stage II config, another cache in that folder, a disk that
      is too small, and whatever the data and the oracle raise.
  """
  from pp import stream
  from trainers.lm import LmStage
  folder = pathlib.Path(out)
  # Of the language model only the sizes are of use here.
  stage = LmStage(dataclasses.replace(
      config, model_init=None, code_cache=None))
  header = code_cache.describe(config, stage.frozen)
  if _is_there(folder, header):
    return folder
  source = stream.open_tfds_split(
      config.dataset, config.train_split, config.data_dir)
  code_len = stage.oracle.model.code_len
  shape = config.codes_per_image, source.num_examples, code_len
  dtype = np.int16 if stage.dict_size < 2**15 else np.int32
  num_codes = shape[0] * shape[1]
  tfds_folder.check_space(
      str(folder), num_codes, num_codes * code_len * dtype().itemsize)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder, header)
    done -= done % config.batch_size
    codes = _codes(config, stage, source, first=done, last=num_codes)
    _write_rows(folder, passes.progress(
        codes, total=num_codes - done, desc="Codes", unit="codes"),
                header, shape=shape, dtype=dtype, first=done)
    (folder / PARTIAL).unlink(missing_ok=True)
  except OSError as error:
    raise ConfigError(f"--out: {str(folder)!r} cannot be written: {error}. The "
                      "same command goes on.") from error
  return folder


def _is_there(folder: pathlib.Path, header) -> bool:
  """Whether the cache is finished; a ConfigError if it is of another run."""
  old = code_cache.read_json(folder / code_cache.HEADER)
  if old is None:
    return False
  differs = code_cache.difference(old, header)
  if differs:
    raise ConfigError(
        f"--out: {str(folder)!r} holds a cache of another run. Choose another "
        "folder, or delete it. There → now:\n  " + "\n  ".join(differs))
  print(f"{folder} is complete already.")
  return True


def _done(folder: pathlib.Path, header) -> int:
  """How many codes an earlier run of the same command has written."""
  partial = code_cache.read_json(folder / PARTIAL)
  if partial is None or partial.get("header") != header:
    return 0
  return int(partial["done"])


def _codes(config, stage, source, *, first: int, last: int
           ) -> Iterator[np.ndarray | None]:
  """Codes first..last−1 of the rounds one after the other, int32 [L] each.

  None for an example that could not be read. `first` starts a batch.
  """
  import jax

  from evaluators import common
  from uvim.learn import sharding
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch_size(config.batch_size, mesh)
  steps = range(first // config.batch_size, -(-last // config.batch_size))
  batches = source.train_batches(
      source.make_preprocess(config.pp_train, config.pp_modules),
      batch_size=config.batch_size, seed=config.seed,
      start_step=steps.start, shuffle=False,
      on_bad_example=config.on_bad_example,
      codes_per_image=config.codes_per_image)
  encode = jax.jit(lambda oracle, batch: {
      "code": stage.oracle.encode(oracle, batch)})
  frozen = jax.device_put(stage.frozen, sharding.replicated(mesh))
  with jax.set_mesh(mesh):
    codes = common.predict_all(
        encode, frozen, itertools.islice(batches, len(steps)),
        put=lambda batch: sharding.shard_batch(batch, mesh))
    # The last batch runs over the end.
    for example in itertools.islice(codes, last - first):
      yield None if example is None else example["code"]


def _write_rows(folder: pathlib.Path, codes, header, *, shape, dtype,
                first: int) -> None:
  """Appends codes to `codes.npy` from row `first` on; the header comes last.

  Written, not mapped: on a full disk a mapped page would kill the process.
  """
  with open(folder / code_cache.CODES, "r+b" if first else "wb") as file:
    np.lib.format.write_array_header_1_0(file, {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False, "shape": shape})
    bad = np.full(shape[-1:], -1, dtype)
    file.seek(first * bad.nbytes, os.SEEK_CUR)
    file.truncate()
    for count, code_L in enumerate(codes, first + 1):
      row_L = bad if code_L is None else code_L.astype(dtype)
      file.write(row_L.tobytes())
      if count % _SAVE_EVERY == 0:
        _sync(file)
        _save_json(folder / PARTIAL, {"header": header, "done": count})
    _sync(file)
  _save_json(folder / code_cache.HEADER, header)


def _sync(file) -> None:
  file.flush()
  os.fsync(file.fileno())


def _save_json(path: pathlib.Path, content) -> None:
  new = path.with_suffix(".tmp")
  new.write_text(json.dumps(content, indent=1))
  os.replace(new, path)


def _parse(argv):
  """(ConfigDict, folder) of a command line."""
  from absl import flags
  from ml_collections import config_flags
  trainer.check_overrides(argv)
  values = flags.FlagValues()
  config = config_flags.DEFINE_config_file(
      "config", None, "configs/lm_….py", lock_config=True, flag_values=values,
      sys_argv=argv)
  out = flags.DEFINE_string("out", None, "folder of the cache",
                            flag_values=values)
  rest = values(argv)
  if len(rest) > 1:
    raise ConfigError(f"Unexpected argument {rest[1]!r}.")
  for flag in (config, out):
    if flag.value is None:
      raise ConfigError(f"--{flag.name} is missing.")
  return config.value, out.value


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; 0, or 2 after a mistake that the message explains."""
  argv = list(sys.argv if argv is None else argv)
  if {"--help", "-h"} & set(argv[1:]):
    print(__doc__)
    return 0
  trainer.quiet_tensorflow()
  import absl.logging

  from uvim.config import resolve
  absl.logging.set_verbosity(absl.logging.ERROR)
  try:
    config, out = _parse(argv)
  except Exception as error:  # Whatever a config file or an override raises.
    print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
    return 2
  try:
    folder = write(resolve(config), out)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  print(f"Codes in {folder}; train with --config.code_cache={folder} and "
        "everything else as here.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
