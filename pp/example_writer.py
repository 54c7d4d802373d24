"""Examples as bytes that are the same in every process.

A run is resumed only on the data it began with, which a checksum of all bytes
tells. So data that is prepared twice must have the same bytes.
"""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds


def with_sorted_features(record: bytes) -> bytes:
  """The same example, with its features in the order of their names.

  Protobuf writes them in an order of its own in each process.

  Args:
    record: a serialized tf.train.Example.
  """
  example = tf.train.Example.FromString(record)
  return example.SerializeToString(deterministic=True)


class ExampleWriter(tfds.core.ExampleWriter):
  """What a TFDS builder writes its files with; see `with_sorted_features`."""

  def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
    """Writes one file; see `tfds.core.ExampleWriter.write`.

    Args:
      path: of the file.
      examples: (key, serialized example).
    """
    return super().write(path, _sorted_one_by_one(examples))


def _sorted_one_by_one(examples):
  for key, record in examples:
    yield key, with_sorted_features(record)
