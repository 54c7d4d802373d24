"""One example: read, parsed, preprocessed, with what a batch needs.

A source (see pp.sources.Source) gives serialised records; here a record
becomes an example, either inside a tf.data stream or on its own.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pp.builder import first_line
from pp.sources import Source
from uvim.registry import ConfigError

# Stands for a record that cannot be read. Parsing it fails, so the example
# counts as bad without its neighbors.
_UNREADABLE = b"?"
# What a damaged record can raise; the last comes from errors that quote it.
BAD_RECORD = (ConfigError, OSError, tf.errors.OpError, UnicodeDecodeError)


class Examples:
  """Makes the examples of a split.

  Attributes:
    source: where the records come from.
    where: data set and split, for messages.
    pp: the preprocessing, for messages.
  """

  def __init__(self, source: Source, preprocess: Callable, *,
               unused: Iterable[str] = (), reads_all: bool = False):
    """Nothing is read yet.

    Args:
      source: where the records come from.
      preprocess: (data, seed int64 [2]) → data.
      unused: keys that are left out; what only they need is not computed.
      reads_all: decodes every feature of a record, even one that no op reads,
        so that the example fails if any of them is broken.
    """
    self.source = source
    self.where = f"{source.dataset} {source.split}"
    self.pp = getattr(preprocess, "string", preprocess)
    self._preprocess = preprocess
    self._unused = tuple(unused)
    self._reads_all = reads_all
    # Number of an example → why its record could not be read.
    self._unreadable: dict[int, str] = {}

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """The records of a batch, for a stream.

    One that cannot be read becomes bytes that `from_record` fails on, and
    `why_unreadable` tells why.
    """
    try:
      return self.source.read(indices)
    except (ConfigError, OSError):
      # Once more one by one, to find out which it is.
      return [self._read_or_note(index) for index in indices]

  def _read_or_note(self, index: int) -> bytes:
    try:
      return self.source.read([index])[0]
    except (ConfigError, OSError) as error:
      self._unreadable[index] = first_line(error)
      return _UNREADABLE

  def why_unreadable(self, index: int) -> str:
    """Why `read` could not read an example; '' if it could."""
    return self._unreadable.get(index, "")

  def from_record(self, raw: tf.Tensor, seed_2: tf.Tensor, index: tf.Tensor,
                  mask: tf.Tensor) -> dict[str, Any]:
    """The example of a record, as tensors; works inside tf.data.

    Args:
      raw: scalar string, the serialised record.
      seed_2: int64 [2], seed of the example's random ops.
      index: int64, number of the example in the split.
      mask: bool, becomes '_mask'.
    """
    data = self.source.parse(raw, index)
    # Taken now, because the string may drop it.
    image_id = data["image/id"]
    out = _without_strings(self._preprocess(data, seed_2))
    for key in self._unused:
      out.pop(key, None)
    if self._reads_all:
      # A control dependency would not do: TensorFlow drops the decoding of
      # features whose values nothing uses.
      features = tf.nest.flatten(data, expand_composites=True)
      sizes = [tf.size(feature) for feature in features]
      out["_read"] = tf.add_n(sizes)
    # `keep` may have dropped the id. No op sees the mask.
    out["image/id"] = image_id
    out["_mask"] = mask
    return out

  def make_alone(self, index: int, seed_2: np.ndarray) -> dict[str, Any]:
    """An example outside of a stream, as numpy arrays.

    Raises:
      Exception: whatever reading and preprocessing raise.
    """
    # The same code as in a stream, but eager. So both give the same example.
    out = self.from_record(
        self._record(index),
        tf.constant(seed_2),
        tf.constant(index),
        tf.constant(True))
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), out)

  def image_id(self, index: int) -> int:
    """The id of an example, which a message can name.

    Raises:
      BAD_RECORD: it cannot be read.
    """
    data = self.source.parse(self._record(index), index)
    return int(data["image/id"])

  def _record(self, index: int) -> tf.Tensor:
    """One record, scalar string."""
    records = self.source.read([index])
    return tf.constant(records[0])


def _without_strings(data: dict[str, Any]) -> dict[str, Any]:
  """Strings can become neither a batch nor an array on a device."""
  out = {}
  for key, value in data.items():
    # Features may be nested, such as `panoptic_objects`.
    if isinstance(value, dict):
      out[key] = _without_strings(value)
    # This leaves out names of files and the like.
    elif value.dtype != tf.string:
      out[key] = value
  return out
