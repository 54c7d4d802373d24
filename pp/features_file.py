"""Checks the features.json of a data set before TFDS reads it.

The file names a class for each feature. TFDS imports the module of a class
that it does not know, so a file of somebody else could run any module of this
machine. Here only classes that are imported already get through: TFDS's own.
"""

import json
import os
from collections.abc import Collection
from typing import Any

import tensorflow_datasets as tfds

from uvim import files
from uvim.registry import ConfigError

NAME = "features.json"
# The keys of a class. Protobuf reads a key in two spellings; older versions of
# TFDS wrote the last one.
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")
# Where older versions of TFDS take a path from. No version writes one.
_PATH_KEYS = ("names_file", "labels")


def check(folder: str | os.PathLike, where: str) -> None:
  """Checks that TFDS imports nothing to read the features.json of a folder.

  Args:
    folder: of a data set, with the version; local or gs://.
    where: starts the message; the option or field that names the data set.

  Raises:
    ConfigError: the file cannot be read, is not JSON, or names a class that is
      no feature of TFDS, or another file.
  """
  path = os.path.join(folder, NAME)
  content = files.load_json(path, where)
  known_classes = _known_classes()
  # A list of what is left to look at, since JSON may be nested very deeply.
  waiting = [content]
  while waiting:
    value = waiting.pop()
    if isinstance(value, dict):
      _check_object(value, known_classes, f"{where}: {path!r}")
      waiting += value.values()
    elif isinstance(value, list):
      waiting += value
    elif isinstance(value, str):
      waiting += _objects_in(value)


def _check_object(value: dict[str, Any], known_classes: Collection[str],
                  start: str) -> None:
  """Checks an object of the JSON, without what is in it."""
  for key in _CLASS_KEYS:
    name = value.get(key)
    # A feature may have such a name too. Then it is an object.
    if isinstance(name, str) and name not in known_classes:
      raise ConfigError(
          f"{start} names the class {name[:100]!r}; allowed: the classes of "
          "tfds.features. TFDS would run the module of any other.")
  for key in _PATH_KEYS:
    name = value.get(key)
    if isinstance(name, str):
      raise ConfigError(
          f"{start} names the file {name[:100]!r} as {key}; allowed: none.")


def _objects_in(text: str) -> list[Any]:
  """The JSON object that a text holds, if any; TFDS reads JSON in JSON."""
  if not text.lstrip().startswith("{"):
    return []
  try:
    return [json.loads(text)]
  except (ValueError, RecursionError):
    # TFDS cannot read it either.
    return []


def _known_classes() -> set[str]:
  """The names of all classes of features that are imported."""
  names = set()
  waiting = [tfds.features.FeatureConnector]
  while waiting:
    feature_class = waiting.pop()
    waiting += feature_class.__subclasses__()
    names.add(f"{feature_class.__module__}.{feature_class.__name__}")
    # Names from before it moved to another module of TFDS.
    names.update(feature_class.ALIASES)
  return names
