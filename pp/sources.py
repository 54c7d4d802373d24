"""Where examples come from: random access to TFDS data sets on disk."""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from pp import data_sets
from pp.builder import first_line
from pp.data_sets import default_data_dir
from pp.records import Part, Records
from uvim.categories import Category
from uvim.registry import ConfigError


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
  builder = data_sets.open_builder(dataset, data_dir)
  categories = data_sets.find_categories(dataset, str(builder.data_dir))
  return Source(builder, dataset, split, categories=categories)
