"""Writes the features of a config's frozen image encoder, for the trainer.

  python -m tools.cache_features --config configs/NAME.py[:argument] \\
      --config.codes_per_image=4 --out DIR [--config.field=value …]

Then train with the same config, `--config.codes_per_image=4` and
`--config.feature_cache=DIR`. The batches are those of a run with that
`codes_per_image` and no cache, but the encoder does not run: its features are
read, in half precision. If nothing else looks at the images, they are not even
decoded. If this command is stopped, the next call continues where it was. It
runs in one process, on all of its devices.

T tokens of the encoder's grid · D its width
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
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import example_cache, feature_cache
from uvim.store.start_from import Store

MakeFeatures = Callable[..., Iterable[Row]]

# Examples between two notes of how far the cache is.
_SAVE_EVERY = 200


def encoder_features(config, family, params: Any, split, *, first: int,
                     end: int) -> Iterator[Row]:
  """Runs the encoder.

  Args:
    config: TrainConfig with `codes_per_image`.
    family: of this config.
    params: of its image encoder.
    split: the Split of the training examples.
    first, end: numbers of rows; see `cache_writer.MakeRows`.

  Yields:
    float16 [T, D]; None for an example that could not be read.

  Raises:
    ConfigError: a feature that float16 cannot hold.
  """
  encoder = family.image_encoder

  def see(params, batch):
    features = encoder.features(params, family.seen_image(batch))
    return features.astype(np.float16)

  rows = cache_writer.compute(
      see, params, config, split, first=first, end=end, unused=("labels",))
  for number, row in enumerate(rows, first):
    if row is not None and not np.isfinite(row).all():
      raise ConfigError(
          f"The features of example {number % split.num_examples} do not fit "
          "into half precision; train without config.feature_cache.")
    yield row


def write(config, out: str | os.PathLike, *, store: Store | None = None,
          make_features: MakeFeatures = encoder_features,
          save_every: int = _SAVE_EVERY) -> pathlib.Path:
  """Fills the cache of a resolved config; see the file's docstring.

  Args:
    config: TrainConfig with `codes_per_image` and a frozen image encoder.
    out: the folder. A cache that is complete stays as it is.
    store: where the encoder is read from; None: disk and network.
    make_features: gives the features; as `encoder_features`.
    save_every: examples between two notes of how far the cache is.

  Returns:
    The folder.

  Raises:
    ConfigError: no frozen encoder, another cache in that folder, a disk that is
      too small, and whatever the data and the encoder raise.
  """
  folder = pathlib.Path(out)
  with Lock(folder / ".lock", f"--out {folder}") as lock:
    _write(config, folder, store or Store(), make_features, save_every, lock)
  return folder


def _write(config, folder: pathlib.Path, store: Store,
           make_features: MakeFeatures, save_every: int, lock: Lock) -> None:
  """`write`, while nobody else does."""
  from pp import splits
  family, params = _open_encoder(config, store)
  split = splits.open_split(config.dataset, config.train_split, config.data_dir)
  header = feature_cache.describe(
      config, family.image_encoder, family.image_key)
  header |= feature_cache.crc32_header(params)
  header[example_cache.DATA] = split.fingerprint(config.pp_train)
  if cache_writer.is_complete(feature_cache.CACHE, folder, header):
    return
  shape = (config.codes_per_image, split.num_examples,
           *family.image_encoder.features_shape)
  writer = Writer(
      feature_cache.CACHE,
      folder,
      header,
      Layout(shape, np.dtype(np.float16)),
      batch_size=config.batch_size,
      save_every=save_every,
      lock=lock)
  features_of = functools.partial(make_features, config, family, params, split)
  writer.fill(lambda first, end: features_of(first=first, end=end))


def _open_encoder(config, store: Store) -> tuple[Any, Any]:
  """(the family of the config, the parameters of its image encoder)."""
  from trainers.families import make_family
  config = dataclasses.replace(config, code_cache=None, feature_cache=None)
  family = make_family(config)
  family.check_has_features()
  initial = family.open(store).initial
  family.check_start(initial)
  return family, feature_cache.encoder_arrays(initial)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = cache_writer.make_parser("tools.cache_features", __doc__)
  return app.run(parser, cache_features, argv, takes_overrides=True)


def cache_features(args: argparse.Namespace) -> None:
  """What the command does."""
  folder = write(cache_writer.load_config(args), args.out)
  print(f"Features in {folder}; train with --config.feature_cache={folder} and "
        "everything else as here.")


if __name__ == "__main__":
  sys.exit(main())
