"""Writes the oracle's codes of a stage II config, for the trainer to read.

  python -m tools.cache_codes --config configs/lm_….py \\
      --config.oracle.model_init=STAGE_I_WORKDIR \\
      --config.codes_per_image=4 --out DIR [--config.field=value …]

Then train with the same config, `--config.codes_per_image=4` and
`--config.code_cache=DIR`. The batches are those of a run with that
`codes_per_image` and no cache, but neither the oracle nor its labels are
computed. If this command is stopped, the next call continues where it was. It
runs in one process, on all of its devices.

With `--config.feature_cache=F`, from tools.cache_features, an oracle that sees
with that frozen image encoder reads its features there.

L places of a code
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tools import cache_writer
from tools.cache_writer import Layout, Row, Writer
from uvim.cli import app
from uvim.encoders import image_encoder
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import code_cache, example_cache, feature_cache
from uvim.store.example_cache import Stored
from uvim.store.start_from import Store

MakeCodes = Callable[..., Iterable[Row]]

# Examples between two notes of how far the cache is.
_SAVE_EVERY = 2000


def oracle_codes(config, family, oracle: Any, split, features: Stored | None,
                 *, first: int, end: int) -> Iterator[Row]:
  """Asks the oracle for codes.

  Args:
    config: TrainConfig of stage II, with `codes_per_image`.
    family: of this config.
    oracle: the arrays of its oracle.
    split: the Split of the training examples.
    features: what the oracle's image encoder would make; None: it runs.
    first, end: numbers of rows; see `cache_writer.MakeRows`.

  Yields:
    int32 [L], or of a code without words what the oracle writes, f32
    [L, numbers]; None for an example that could not be read.
  """
  stage_i = family.oracle
  encode_with = stage_i.encode
  if not stage_i.code_spec.is_discrete:
    # Each training step draws other numbers from it.
    encode_with = stage_i.written

  def encode(oracle, batch):
    ctx = stage_i.see(oracle, batch)
    return encode_with(oracle, batch, ctx)

  cached = {}
  unused = ()
  if features is not None:
    cached = {"features": features}
    unused = stage_i.unused_keys
  return cache_writer.compute(
      encode, oracle, config, split, first=first, end=end, unused=unused,
      cached=cached)


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
  from pp import splits
  family, oracle = _open_oracle(config, store)
  split = splits.open_split(config.dataset, config.train_split, config.data_dir)
  header = code_cache.describe(config, oracle)
  header[example_cache.DATA] = split.fingerprint(config.pp_train)
  if cache_writer.is_complete(code_cache.CACHE, folder, header):
    return
  writer = Writer(
      code_cache.CACHE,
      folder,
      header,
      _layout_of(config, family, split.num_examples),
      batch_size=config.batch_size,
      save_every=save_every,
      lock=lock)
  features = _open_features(config, family.oracle, oracle)
  codes_of = functools.partial(
      make_codes, config, family, oracle, split, features)
  writer.fill(lambda first, end: codes_of(first=first, end=end))


def _open_oracle(config, store: Store) -> tuple[Any, Any]:
  """(the family of the config, the arrays of its oracle)."""
  from trainers.families import make_family
  if config.kind != "lm":
    raise ConfigError(f"--config is of kind {config.kind!r}; only a prior "
                      "(kind 'lm') learns codes that can be kept.")
  # Neither the weights that the prior starts from nor an old cache are read.
  config = dataclasses.replace(
      config, model_init=None, code_cache=None, feature_cache=None)
  family = make_family(config)
  return family, family.open(store).frozen


def _open_features(config, stage_i, oracle: Any) -> Stored | None:
  """What config.feature_cache holds; None: the oracle does without."""
  path = config.feature_cache
  encoder = stage_i.image_encoder
  if not path or encoder is None:
    return None
  features = feature_cache.open_features(
      path, config, encoder, stage_i.image_key)
  feature_cache.check_params(path, oracle["params"][image_encoder.NAME])
  return features


def _layout_of(config, family, num_examples: int) -> Layout:
  """What `codes.npy` holds."""
  model = family.oracle.model
  spec = model.spec
  shape = (config.codes_per_image, num_examples)
  if not spec.is_discrete:
    row_shape = (spec.length, model.quantizer.oracle_dim)
    return Layout((*shape, *row_shape), np.dtype(np.float32))
  # Signed, since −1 marks a bad example.
  is_small = spec.num_words < 2**15
  dtype = np.dtype(np.int16 if is_small else np.int32)
  return Layout((*shape, *spec.shape), dtype)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = cache_writer.make_parser("tools.cache_codes", __doc__)
  return app.run(parser, cache_codes, argv, takes_overrides=True)


def cache_codes(args: argparse.Namespace) -> None:
  """What the command does."""
  folder = write(cache_writer.load_config(args), args.out)
  print(f"Codes in {folder}; train with --config.code_cache={folder} and "
        "everything else as here.")


if __name__ == "__main__":
  sys.exit(main())
