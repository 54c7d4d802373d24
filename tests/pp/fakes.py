"""Sources with another `read`: one counts, the other spoils records."""

import tensorflow as tf

from pp.sources import Source


class CountingSource(Source):
  """Remembers what was read, a list of numbers for each call of `read`."""

  def __init__(self, source):
    # An open source is what `make_source` gives; this one shares its fields.
    vars(self).update(vars(source))
    self.reads = []

  def read(self, indices):
    self.reads.append([int(index) for index in indices])
    return super().read(indices)


class SpoiledSource(Source):
  """Changes the records of some examples.

  `changes` maps the number of an example to a function that changes its
  features, or raises.
  """

  def __init__(self, source, changes):
    vars(self).update(vars(source))
    self.changes = changes

  def read(self, indices):
    records = super().read(indices)
    return [self._change(int(index), record)
            for index, record in zip(indices, records, strict=True)]

  def _change(self, index, record):
    if index not in self.changes:
      return record
    example = tf.train.Example.FromString(record)
    self.changes[index](example.features.feature)
    return example.SerializeToString()
