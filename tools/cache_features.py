"""Writes the features of a config's frozen image encoder, for the trainer.

  python -m tools.cache_features --config configs/NAME.py[:argument] \\
      --config.codes_per_image=4 --out DIR [--config.field=value …]

Then train with the same config, `--config.codes_per_image=4` and
`--config.feature_cache=DIR`. The batches are those of a run with that
`codes_per_image` and no cache, but the encoder does not run: its features are
read, in half precision. If nothing else looks at the images, they are not even
decoded. The evaluators' images get their features too, once and in full
precision. What is there is kept, so the configs of both stages may fill one
DIR. If this command is stopped, the next call continues where it was. It runs
in one process, on all of its devices.

T tokens of the encoder's grid · D its width
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools import cache_writer
from tools.cache_writer import Layout, Row, Writer
from tools.prepare import tfds_folder
from uvim.cli import app
from uvim.config import TrainConfig
from uvim.encoders.image_encoder import ImageEncoder
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import example_cache, feature_cache
from uvim.store.start_from import Store

MakeFeatures = Callable[..., Iterable[Row]]

# Examples between two notes of how far the cache is.
_SAVE_EVERY = 200


class Part(NamedTuple):
  """The examples of a split that share a folder.

  Attributes:
    folder: where their features go.
    config: a run that trains on them, with its `codes_per_image`.
    split: the Split that they are from.
    image_key: which image of a batch the encoder looks at.
    dtype: of the features: half precision to train on, full to evaluate.
  """
  folder: pathlib.Path
  config: TrainConfig
  split: Any
  image_key: str
  dtype: type[np.floating]

  @property
  def data(self) -> dict[str, Any]:
    """The fingerprint of the examples."""
    return self.split.fingerprint(self.config.pp_train)


def encoder_features(part: Part, encoder: ImageEncoder, params: Any,
                     first: int, end: int) -> Iterator[Row]:
  """Runs the encoder.

  Args:
    part: the examples.
    encoder: what is run.
    params: its parameters.
    first, end: numbers of rows; see `cache_writer.MakeRows`.

  Yields:
    `part.dtype` [T, D]; None for an example that could not be read.

  Raises:
    ConfigError: a feature that this type cannot hold.
  """
  def see(params, batch):
    features = encoder.features(params, batch[part.image_key])
    return features.astype(part.dtype)

  rows = cache_writer.compute(
      see, params, part.config, part.split, first=first, end=end,
      unused=("labels",))
  for number, row in enumerate(rows, first):
    if row is not None and not np.isfinite(row).all():
      raise ConfigError(
          f"The features of example {number % part.split.num_examples} do not "
          f"fit into {part.dtype.__name__}; train without "
          "config.feature_cache.")
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


def _write(config: TrainConfig, folder: pathlib.Path, store: Store,
           make_features: MakeFeatures, save_every: int, lock: Lock) -> None:
  """`write`, while nobody else does."""
  family, params = _open_encoder(config, store)
  encoder = family.image_encoder
  checksum = feature_cache.crc32_header(params)
  missing = []
  for part in _parts(config, family, folder):
    header = feature_cache.describe(part.config, encoder, part.image_key)
    header |= checksum
    header[example_cache.DATA] = part.data
    if cache_writer.is_complete(feature_cache.CACHE, part.folder, header):
      continue
    writer = Writer(
        feature_cache.CACHE,
        part.folder,
        header,
        _layout_of(part, encoder),
        batch_size=config.batch_size,
        save_every=save_every,
        lock=lock)
    missing.append((part, writer))
  _check_space(folder, missing)
  for part, writer in missing:
    part.folder.mkdir(exist_ok=True)
    print(f"{part.split.dataset} {part.split.split} → {part.folder}")
    features_of = functools.partial(make_features, part, encoder, params)
    writer.fill(features_of)


def _parts(config: TrainConfig, family: Any, folder: pathlib.Path
           ) -> list[Part]:
  """What a run of the config sees: in training, then in evaluations."""
  from pp import splits
  split = splits.open_split(config.dataset, config.train_split, config.data_dir)
  parts = {folder: Part(folder, config, split, family.image_key, np.float16)}
  for dataset, data_dir, split_name, pp in _evaluated(config):
    split = splits.open_split(dataset, split_name, data_dir)
    part_folder = feature_cache.evaluated_folder(
        folder, split.fingerprint(pp), pp)
    # Evaluators of the same examples share one.
    parts[part_folder] = Part(
        part_folder,
        feature_cache.evaluated(config, pp),
        split,
        family.image_key_of(pp),
        np.float32)
  return list(parts.values())


def _evaluated(config: TrainConfig) -> list[tuple[str, str | None, str, str]]:
  """(data set, its folder, split, preprocessing) of evaluators and panel."""
  found = []
  for block in config.evals:
    found.append((block.dataset, block.data_dir, block.split, block.pp))
  if config.val_split and config.pp_eval:
    found.append((
        config.dataset, config.data_dir, config.val_split, config.pp_eval))
  return found


def _layout_of(part: Part, encoder: ImageEncoder) -> Layout:
  """What `features.npy` holds."""
  shape = (part.config.codes_per_image, part.split.num_examples)
  return Layout((*shape, *encoder.features_shape), np.dtype(part.dtype))


def _check_space(folder: pathlib.Path, missing: Sequence[tuple[Part, Writer]]
                 ) -> None:
  """Prints what several parts need together; refuses a disk that has less.

  `Writer.fill` does so for one of them, but only when its turn comes.
  """
  num_rows = 0
  num_bytes = 0
  for _, writer in missing:
    num_rows += writer.layout.num_rows
    num_bytes += writer.bytes_left
  if len(missing) > 1:
    tfds_folder.check_space(str(folder), num_rows, num_bytes, option="--out")


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
