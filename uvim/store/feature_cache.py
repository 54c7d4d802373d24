"""Features of a frozen image encoder on disk, so that it need not run.

`features.npy` is float16 [R, N, T, D]; NaN where an example could not be read.
`features_crc32.npy` is uint32 [R, N], a checksum for each row.

R augmentations · N examples · T tokens of the encoder's grid · D its width
"""

import dataclasses
import pathlib

import numpy as np

from uvim import tree
from uvim.config import TrainConfig
from uvim.encoders import image_encoder
from uvim.encoders.image_encoder import ImageEncoder
from uvim.registry import ConfigError
from uvim.store.example_cache import Cache, Header, Stored, read_header
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
