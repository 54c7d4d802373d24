"""Where examples come from: random access to TFDS data sets on disk."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from pp.builder import first_line
from pp.records import Part, Records
from uvim import categories as categories_lib
from uvim.categories import Category
from uvim.registry import ConfigError

# What `pp.records` can find its way in.
_FORMATS = ("tfrecord",)


def default_data_dir(data_dir: str | os.PathLike | None = None) -> str:
  """`data_dir`, else $TFDS_DATA_DIR, else TFDS's own ~/tensorflow_datasets."""
  chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
  if not chosen:
    chosen = "~/tensorflow_datasets"
  return os.path.expanduser(os.fspath(chosen))


class Source:
  """The examples of one split, in a fixed order 0..num_examples-1.

  Attributes:
    dataset: the TFDS name, as given.
    split: the split or sub-split, as given.
    num_examples: how many examples the split has.
    categories: panoptic categories in the order of the labels, or ().
    folder: the folder the files lie in.
  """

  def __init__(self, builder: Any, dataset: str, split: str, *,
               categories: Sequence[Category] = ()):
    """Opens the split; see `make_source`."""
    self.dataset = dataset
    self.split = split
    self.categories = tuple(categories)
    self.folder = str(builder.data_dir)
    self._features = builder.info.features
    # 'mydata', or 'mydata/config': without the version.
    self._name = "/".join(filter(None, [builder.name, _config_name(builder)]))
    self._version = str(builder.version)
    self._records = Records(_parts(builder, dataset, split), self.folder)
    self.num_examples = len(self._records)
    # The ops decode the image, so that they need not decode all of it.
    self._decoders = {}
    features = dict(self._features.items())
    if isinstance(features.get("image"), tfds.features.Image):
      self._decoders["image"] = tfds.decode.SkipDecoding()

  def __len__(self) -> int:
    return self.num_examples

  def fingerprint(self) -> dict[str, Any]:
    """What tells these examples from others; see pp.splits.Split."""
    return {
        "name": self._name,
        "version": self._version,
        "split": self.split,
        "num_examples": self.num_examples,
        "num_bytes": self._records.num_bytes,
        "checksum": self._records.checksum(),
    }

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """Serialised examples at these positions, in the order asked for.

    Raises:
      IndexError: for an index outside 0..num_examples-1.
      ConfigError: one cannot be read, or does not fit its checksum.
    """
    return self._records.read(indices)

  def parse(self, raw: tf.Tensor, index: tf.Tensor | int = -1
            ) -> dict[str, Any]:
    """One serialised example as a dict of tensors; works inside tf.data.

    'image' stays encoded, so an op can decode just the part it needs; the rest
    is decoded by the data set's own features. 'image/id' int64 is the data
    set's own where that is an integer, and `index` otherwise.

    Args:
      raw: scalar string tensor.
      index: position in the split.
    """
    data = dict(self._features.deserialize_example(
        raw, decoders=self._decoders))
    image_id = data.get("image/id")
    # Some data sets have no id, or a text.
    if image_id is None or not image_id.dtype.is_integer:
      image_id = index
    data["image/id"] = tf.cast(image_id, tf.int64)
    return data

  def tensors(self, index: int) -> dict[str, Any]:
    """Example `index` as `parse` gives it, outside tf.data.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
      record = self.read([index])[0]
      return self.parse(tf.constant(record), index)
    # The last comes where TensorFlow's error quotes bytes that are no text.
    except (ConfigError, OSError, tf.errors.OpError,
            UnicodeDecodeError) as error:
      raise ConfigError(f"{self.dataset} {self.split}: example {index} cannot "
                        f"be read: {first_line(error)}") from error

  def example(self, index: int) -> dict[str, Any]:
    """Example `index` as a dict of numpy arrays; 'image' as encoded bytes.

    Raises:
      ConfigError: it cannot be read.
    """
    return tf.nest.map_structure(
        lambda tensor: tensor.numpy(), self.tensors(index))


def _config_name(builder: Any) -> str:
  """Name of the builder's config; '' if it has none."""
  config = builder.builder_config
  return config.name if config else ""


def _parts(builder: Any, dataset: str, split: str) -> list[Part]:
  """The files of a split or sub-split like 'train[10%:]'.

  Raises:
    ConfigError: no such split, or no example in it.
  """
  problem = ""
  parts = []
  try:
    # 'train[:9]+validation' has two terms. TFDS takes any of them, and what it
    # makes of train[5:2] depends on the number of files.
    for term in split.split("+"):
      parts_of_term = _parts_of_term(builder, term)
      if not parts_of_term:
        problem = f"{term!r} has no examples."
      parts += parts_of_term
  # TFDS reports a slice outside the split with an assertion.
  except (KeyError, ValueError, AssertionError) as error:
    problem = _last_sentence(error)
  if problem:
    raise ConfigError(f"{dataset}: cannot read split {split!r}: {problem} "
                      f"Splits there: {_split_sizes(builder)}.")
  return parts


def _parts_of_term(builder: Any, term: str) -> list[Part]:
  """The files of 'train' or 'train[10%:]'; none if it has no examples."""
  parts = []
  for item in builder.info.splits[term].file_instructions:
    if item.take > 0:
      parts.append(Part(str(item.filename), item.skip, item.take,
                        item.examples_in_shard))
  return parts


def _split_sizes(builder: Any) -> str:
  """'train (64), validation (16)'."""
  sizes = []
  for name in sorted(map(str, builder.info.splits)):
    sizes.append(f"{name} ({builder.info.splits[name].num_examples})")
  return ", ".join(sizes) or "none"


def _last_sentence(error: BaseException) -> str:
  """The last line of an error's text, with a full stop.

  TFDS explains there what it does not like about a slice.
  """
  # str() of a KeyError would put its text in quotes.
  text = str(error.args[0] if error.args else error).strip()
  if not text:
    return f"{type(error).__name__}."
  line = text.splitlines()[-1]
  return f"{line.removesuffix('.')}."


# How to make a data set from files, by how its name begins.
_COMMANDS = {
    "nyu": "for NYU Depth V2 run `{} nyu --train DIR --validation DIR",
    "imagenet": "for a folder of images run `{} images --images DIR "
                "--split SPLIT",
}
_OTHER_COMMAND = (
    "for COCO-format panoptic files run `{} coco --images DIR --panoptic "
    "DIR --annotations JSON --split SPLIT")


def _not_prepared(dataset: str, data_dir: str) -> ConfigError:
  """The one message for data that is not there: where, and how to get it."""
  name = dataset.split(":")[0]
  command = _OTHER_COMMAND
  # The message shows the command that fits the name best.
  for start, text in _COMMANDS.items():
    if name.startswith(start):
      command = text
  return ConfigError(
      f"dataset: {dataset!r} is not prepared in data_dir {data_dir!r}. "
      f"To get it: {command.format('python -m tools.prepare_data')} "
      f"--name {name} --data_dir {data_dir}` (--help tells what else it can "
      "read); for a data set "
      "that TFDS can download run `python -c \"import tensorflow_datasets as "
      f"tfds; tfds.builder('{name}', data_dir='{data_dir}')"
      ".download_and_prepare()\"`; where it lies elsewhere, set data_dir or "
      "the environment variable TFDS_DATA_DIR.")


def _find_categories(dataset: str, folder: str) -> tuple[Category, ...]:
  """Panoptic categories: those beside the data, or of a known data set."""
  path = pathlib.Path(folder) / categories_lib.FILE_NAME
  if path.is_file():
    return categories_lib.load(path)
  if dataset.startswith("coco/2017_panoptic"):
    return categories_lib.coco_panoptic()
  if _is_rooms(dataset):
    from pp.rooms import builder as rooms
    return tuple(Category(*row) for row in rooms.CATEGORIES)
  return ()


def _is_rooms(dataset: str) -> bool:
  """Whether it is our own data set: 'rooms', 'rooms/CONFIG:VERSION', …"""
  name = dataset.split(":")[0]
  return name.split("/")[0] == "rooms"


def _open_builder(dataset: str, data_dir: str) -> Any:
  """The TFDS builder of a data set on disk, made from its files alone."""
  if _is_rooms(dataset):
    from pp.rooms import builder as rooms
    # 'rooms/CONFIG:VERSION': the name, a config and a version, if any.
    name = dataset.split(":")[0]
    config = name.partition("/")[2]
    if not config:
      return rooms.build(data_dir)
    return rooms.build(data_dir, config)
  try:
    return tfds.core.read_only_builder.builder_from_files(
        dataset, data_dir=data_dir)
  # The name may be malformed (ValueError) or simply absent.
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    raise _not_prepared(dataset, data_dir) from error


def make_source(dataset: str, split: str,
                data_dir: str | os.PathLike | None = None) -> Source:
  """Opens a data set on disk for random access.

  Args:
    dataset: a TFDS name: 'coco/2017_panoptic', 'rooms', 'mydata:1.0.0', …
      'rooms' is rendered on first use; nothing is ever downloaded.
    split: 'train', 'train[4096:]', 'validation[:16]', 'train[10%:]', …
    data_dir: TFDS's root folder; None means `default_data_dir()`.

  Raises:
    ConfigError: when the data set or split is not there, or is stored in a
      format without random access.
  """
  data_dir = default_data_dir(data_dir)
  builder = _open_builder(dataset, data_dir)
  file_format = builder.info.file_format.value
  if file_format not in _FORMATS:
    raise ConfigError(
        f"dataset: {dataset!r} in {data_dir!r} is stored as {file_format!r}; "
        f"allowed: {', '.join(_FORMATS)}. Prepare it again with "
        "file_format='tfrecord'.")
  categories = _find_categories(dataset, str(builder.data_dir))
  return Source(builder, dataset, split, categories=categories)
