"""Packs: what is left of a run to predict with, small enough to share.

  PACK/config.json         the config of the run, without paths of its machine
  PACK/model.safetensors   its parameters and, of stage I, its codebook
  PACK/categories.json     what its classes stand for, where it has classes
  PACK/README.md           the model card
  PACK/stage1/             stage I of a run of stage II, in the same files

A pack stands wherever a command or a config takes the workdir of a run. It
needs neither the data set nor TensorFlow. It cannot be resumed: optimizer and
random state are left behind.
"""

import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from uvim import categories as categories_lib
from uvim import files, tree
from uvim.categories import Category
from uvim.registry import ConfigError
from uvim.store import safetensors_file
from uvim.typing import PyTree

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"
STAGE_I = "stage1"
# Every file that a pack may have; others in its folder are not ours.
FILES = (CARD, CONFIG, WEIGHTS, categories_lib.FILE_NAME)

_LARGEST_HALF = float(np.finfo(np.float16).max)
# Keys of the text in a file of weights.
_VERSION = "version"
_ORACLE = "oracle_crc32"

Path = str | os.PathLike


def is_pack(path: Path) -> bool:
  """Whether a folder is a pack, or a stage of one.

  Other projects have files of the same names; their config names no kind.
  """
  text = os.fspath(path)
  # No system has such a path, and some raise for it.
  if "\0" in text:
    return False
  folder = epath.Path(text)
  if not (folder / WEIGHTS).exists() or not (folder / CONFIG).exists():
    return False
  config = files.read_json(folder / CONFIG) or {}
  return "kind" in config


def holds_both(path: str) -> bool:
  """Whether a folder of this machine is a pack of both stages."""
  has_folder = "\0" not in path and os.path.isdir(os.path.join(path, STAGE_I))
  return has_folder and is_pack(path)


def stage_i_of(path: Path) -> str:
  """The folder of stage I in a pack of both stages.

  Raises:
    ConfigError: the pack lacks it.
  """
  folder = os.path.join(os.fspath(path), STAGE_I)
  if not is_pack(folder):
    raise ConfigError(f"{os.fspath(path)} is a pack of stage II, but its "
                      f"folder {STAGE_I} holds no pack of stage I.")
  return folder


def load_params(path: Path) -> dict[str, Any]:
  """The arrays of a pack, as `checkpoint.load_params` gives those of a run.

  Half precision comes as float32.

  Raises:
    ConfigError: not readable.
  """
  return safetensors_file.load(epath.Path(os.fspath(path)) / WEIGHTS)


def read_meta(path: Path) -> dict[str, Any]:
  """What `checkpoint.read_meta` says of a run, as far as a pack knows it.

  Returns:
    "version" of the package that trained it; "oracle_crc32" of stage II: see
    `open_model.check_oracle`; "categories" as [id, name, is a thing] each.

  Raises:
    ConfigError: a file cannot be read.
  """
  folder = epath.Path(os.fspath(path))
  notes = safetensors_file.read_notes(folder / WEIGHTS)
  meta = {_VERSION: notes.get(_VERSION, "")}
  crc32 = notes.get(_ORACLE, "")
  if crc32.isdecimal():
    meta[_ORACLE] = int(crc32)
  names = folder / categories_lib.FILE_NAME
  if names.exists():
    rows = [list(category) for category in categories_lib.load(names)]
    meta["categories"] = rows
  return meta


def write_stage(folder: Path, config: Mapping[str, Any], arrays: PyTree, *,
                version: str, categories: tuple[Category, ...] = (),
                oracle_crc32: int | None = None) -> None:
  """Writes one stage: all files but the card.

  Args:
    folder: made if need be.
    config: of the run.
    arrays: {"params", and of stage I "state"}.
    version: of the package that trained it.
    categories: what the classes stand for; () where nobody knows.
    oracle_crc32: of stage II: `tree.fingerprint` of stage I as it is loaded.
  """
  from safetensors import numpy as safetensors_numpy
  folder = epath.Path(os.fspath(folder))
  notes = {_VERSION: version}
  if oracle_crc32 is not None:
    notes[_ORACLE] = str(oracle_crc32)
  # The library writes the bytes as they lie in memory.
  flat = {name: np.asarray(array, order="C")
          for name, array in tree.flatten(arrays).items()}
  content = safetensors_numpy.save(flat, notes)
  files.write_bytes(folder / WEIGHTS, content)
  files.write_json(folder / CONFIG, config)
  if categories:
    categories_lib.save(folder / categories_lib.FILE_NAME, categories)


def halve(arrays: PyTree) -> PyTree:
  """Arrays with float32 parameters as float16.

  The quantizer's state stays as it is: it is small, and its counts may be
  large. So do parameters that float16 cannot hold.

  Args:
    arrays: {"params", maybe "state"} as numpy.
  """
  halved = {}
  for name, array in tree.flatten(arrays).items():
    is_parameter = name.startswith(f"{files.PARAMS}/")
    if is_parameter and _fits_half(array):
      array = array.astype(np.float16)
    halved[name] = array
  return tree.unflatten(halved)


def as_loaded(arrays: PyTree) -> PyTree:
  """What `load_params` makes of such arrays: 16 bits become 32."""
  loaded = {}
  for name, array in tree.flatten(arrays).items():
    if array.dtype in (np.float16, ml_dtypes.bfloat16):
      array = array.astype(np.float32)
    loaded[name] = array
  return tree.unflatten(loaded)


def _fits_half(array: np.ndarray) -> bool:
  if array.dtype != np.float32:
    return False
  return bool(np.abs(array).max(initial=0) <= _LARGEST_HALF)


def without_places(content: Any) -> Any:
  """JSON without paths of this machine and addresses of private storage.

  They would tell a stranger about its owner, and lead nowhere for anybody
  else. A relative path stays.
  """
  if isinstance(content, dict):
    return {key: without_places(value) for key, value in content.items()}
  if isinstance(content, list):
    return [without_places(value) for value in content]
  is_place = isinstance(content, str) and (
      os.path.isabs(content) or content.startswith(("~", "gs://", "s3://")))
  return None if is_place else content
