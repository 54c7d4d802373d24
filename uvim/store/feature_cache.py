"""Features of a frozen image encoder on disk, so that it need not run.

`features.npy` is float16 [R, N, T, D]; NaN where an example could not be read.
`features_crc32.npy` is uint32 [R, N], a checksum for each row.

Beside them, a folder for each split and preprocessing that evaluators read has
the same files. There R = 1, and the features are float32: they are few, and a
score must not depend on whether they were kept.

R augmentations · N examples · T tokens of the encoder's grid · D its width
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from uvim import tree
from uvim.config import TrainConfig
from uvim.encoders import image_encoder
from uvim.encoders.image_encoder import ImageEncoder
from uvim.registry import ConfigError
from uvim.store.example_cache import DATA, Cache, Header, Stored, read_header
from uvim.store.start_from import Arrays
from uvim.typing import PyTree

CACHE = Cache("features", "feature_cache", checks_rows=True)
_CRC32 = "encoder_crc32"
_PREFIX = f"params/{image_encoder.NAME}/"
# Fields of the block that do not change what the network computes.
_OF_NO_ACCOUNT = ("frozen", "beside", "attention", "scan_layers", "remat",
                  "variant")


def encoder_arrays(arrays: Arrays) -> PyTree:
  """The encoder's parameters among arrays by name; None without any."""
  found = {}
  for name, array in arrays.items():
    if name.startswith(_PREFIX):
      found[name.removeprefix(_PREFIX)] = np.asarray(array)
  return tree.unflatten(found) if found else None


def describe(config: TrainConfig, encoder: ImageEncoder, image_key: str
             ) -> Header:
  """What the features depend on besides the encoder's parameters.

  Args:
    config: with `codes_per_image`.
    encoder: of the config's model.
    image_key: which image of a batch it looks at: 'image' or 'image_ctx'.

  Raises:
    ConfigError: as `Cache.describe`.
  """
  block = dataclasses.asdict(encoder)
  # In place of the variant, the sizes that it stands for.
  block |= dataclasses.asdict(encoder.size)
  block["patch_size"] = encoder.patch
  for name in _OF_NO_ACCOUNT:
    del block[name]
  # Nothing of the stage: both may read the same features.
  return CACHE.describe(config, {"image": image_key, "encoder": block})


def crc32_header(params: PyTree) -> Header:
  """The part of the header that tells the encoder's parameters from others."""
  return {_CRC32: tree.fingerprint(params)}


def open_features(path: str, config: TrainConfig, encoder: ImageEncoder,
                  image_key: str) -> Stored:
  """The features of a cache, float16 [R, N, T, D]; see `Cache.open`.

  This does not compare the encoder's parameters: a run that resumes reads them
  later, from its own checkpoint. Then `check_params` compares.

  Raises:
    ConfigError: as `Cache.open`.
  """
  header = describe(config, encoder, image_key)
  old = _header_of(path)
  # With the cache's own checksum of the parameters, so that it does not count.
  return CACHE.open(path, {**header, _CRC32: old.get(_CRC32)})


def evaluated(config: TrainConfig, pp: str) -> TrainConfig:
  """The config of a run that would train on what an evaluator sees.

  Its only epoch is the pass of the evaluator, so a cache of it holds the
  features of the evaluator's examples.

  Args:
    config: of the run that the evaluator belongs to.
    pp: the evaluator's preprocessing.
  """
  return dataclasses.replace(config, pp_train=pp, seed=0, codes_per_image=1)


def evaluated_folder(path: str | pathlib.Path, data: Mapping[str, Any],
                     pp: str) -> pathlib.Path:
  """The folder, inside that of the cache, of a split that is evaluated.

  Args:
    path: of the cache.
    data: fingerprint of the split; see pp.splits.
    pp: the evaluator's preprocessing.
  """
  # The string is too long for the name of a folder.
  text = "\n".join([data["name"], data["split"], pp])
  digest = hashlib.sha256(text.encode()).hexdigest()
  return pathlib.Path(path) / f"eval-{digest[:10]}"


def open_evaluated(path: str, config: TrainConfig, encoder: ImageEncoder,
                   image_key: str, pp: str, data: Mapping[str, Any]
                   ) -> Stored | None:
  """The features of a split that is evaluated, float32 [1, N, T, D].

  Args:
    path: the folder of the cache; its features for training are there.
    config: of the run.
    encoder: of the config's model.
    image_key: which image of the evaluator's batches it looks at.
    pp: the evaluator's preprocessing.
    data: fingerprint of its split; see pp.splits.

  Returns:
    None if the cache was written without them.

  Raises:
    ConfigError: they are of another encoder, of other data or damaged.
  """
  folder = evaluated_folder(path, data, pp)
  if read_header(folder, CACHE.where) is None:
    return None
  header = describe(evaluated(config, pp), encoder, image_key)
  header[DATA] = dict(data)
  # The run compares its encoder with that of the features for training.
  header[_CRC32] = _header_of(path).get(_CRC32)
  return CACHE.open(str(folder), header)


def check_params(path: str, params: PyTree) -> None:
  """Raises a ConfigError if the features are of other parameters.

  Args:
    path: the folder; a finished cache.
    params: of the encoder, as numpy arrays.
  """
  before = _header_of(path).get(_CRC32)
  now = tree.fingerprint(params)
  if before != now:
    raise ConfigError(
        f"{CACHE.where}: {path!r} holds features of an encoder with other "
        f"parameters. Cache → this run: {_CRC32} {before} → {now}.")


def _header_of(path: str) -> Header:
  """The header of a cache; {} without one."""
  return read_header(pathlib.Path(path), CACHE.where) or {}
