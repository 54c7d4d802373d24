"""Splits of data sets: one interface, whoever reads the files.

`open_split` picks the reader by the name of the data set:

  'arrays:DIR'   what tools.cache_arrays wrote: pp.arrays, with numpy alone.
  anything else  a TFDS name: pp.stream, with TensorFlow.

TensorFlow is imported when it is needed, so that training from arrays works
where it is not installed.

Dimensions: B examples of a batch on this process · N examples of the split ·
R augmentations of an example · L words of a code · T tokens of D features.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from pp import arrays
from pp.batches import Batch, Pass
from pp.cached_arrays import Stored
from uvim.categories import Category

# What `make_preprocess` gives and the batches take: the string itself where
# the reader needs no more, else a function (data, seed int64 [2]) → data.
Preprocess = str | Callable[[dict[str, Any], Any], dict[str, Any]]


class Split(Protocol):
  """A split of a data set; its examples have numbers 0..num_examples-1.

  A reader raises a ConfigError for an argument that it cannot honor.

  Attributes:
    dataset: name of the data set, as it was given to `open_split`.
    split: name of the split, as it was given.
    num_examples: how many examples the split has.
    categories: panoptic categories in the order of the labels, or ().
    folder: the folder that the files lie in.
  """
  # Both readers have these, so no caller asks which one it has.
  dataset: str
  split: str
  num_examples: int
  categories: tuple[Category, ...]
  folder: str

  def fingerprint(self, pp: str | None = None) -> dict[str, Any]:
    """What tells the examples from others, cheaply.

    It is the same wherever the files lie and however their folder is spelled.
    Other examples, or the same in another order, have another.

    Args:
      pp: the preprocessing string that they are read with. It counts for
        arrays, whose ops ran when they were written.

    Returns:
      Plain JSON: "name", "version", "split", "num_examples", "num_bytes",
      "checksum" of all bytes in their order; of arrays also "arrays", a
      checksum of what was written for `pp`.
    """

  def example(self, index: int) -> dict[str, Any]:
    """The raw example of that number, as evaluators need it for the truth.

    Returns:
      A dict of numpy arrays, nested as the data set's features are;
      'image/id' is always there. 'image' is encoded, or absent.

    Raises:
      ConfigError: it cannot be read.
    """

  def make_preprocess(self, pp: str, modules: Iterable[str] | None = None
                      ) -> Preprocess:
    """Prepares a preprocessing string, so that its mistakes show early.

    Args:
      pp: the string; see pp.builder.
      modules: names of the op modules it may use; None: all.

    Raises:
      ConfigError: a mistake in the string.
    """

  def train_batches(
      self,
      preprocess: Preprocess,
      *,
      batch_size: int,
      seed: int,
      start_step: int = 0,
      process_index: int = 0,
      process_count: int = 1,
      on_bad_example: str = "error",
      codes_per_image: int | None = None,
      cached: Mapping[str, Stored] | None = None,
      unused: Iterable[str] = (),
      shuffle: bool = True,
  ) -> Iterator[Batch]:
    """Endless training batches; a batch is a function of (seed, step).

    Args:
      preprocess: from `make_preprocess`, or a string that may use all ops.
      batch_size: of all processes together; this one gets its equal part.
      seed: of the order and of the augmentations.
      start_step: the step of the first batch, for a run that is resumed.
      process_index: number of this process.
      process_count: how many processes there are.
      on_bad_example: what happens to an example that cannot be read or
        preprocessed: 'error' names it; 'skip' puts another example in its
        place.
      codes_per_image: the augmentations repeat after so many epochs; None:
        they never do.
      cached: key of the batch → what a cache holds of each augmentation,
        [R, N, …] where R = `codes_per_image`; see `CachedArrays`.
      unused: keys that are left out, so that nothing is computed for them.
      shuffle: False keeps the order of the files.

    Returns:
      An iterator of batches: what `preprocess` keeps, and 'image/id' int64
      [B]. With 'skip' also '_skipped' bool [B], which is True for an example
      in another's place. With `cached` also 'code' int32 [B, L] or 'features'
      float16 [B, T, D].

    Raises:
      ConfigError: a batch size that the processes cannot share, a wrong
        argument, and, while iterating, a bad example.
    """

  def eval_batches(
      self,
      preprocess: Preprocess,
      *,
      batch_size: int,
      seed: int = 0,
      process_index: int = 0,
      process_count: int = 1,
      on_bad_example: str = "error",
      cached: Mapping[str, Stored] | None = None,
  ) -> Pass:
    """Batches of the whole split in its order; arguments as above.

    With 'skip' a bad example becomes zeros. An evaluation has one augmentation
    of each example, so caches hold [1, N, …].

    Returns:
      A Pass. Its batches have 'image/id' int64 [B] and '_mask' bool [B],
      which is False for the padding of the last batch and for what was
      skipped. With 'skip' they also have '_skipped' bool [B]. With `cached`
      they have what the cache holds, in its own type.

    Raises:
      ConfigError: as `train_batches`.
    """


def open_split(dataset: str, split: str,
               data_dir: str | os.PathLike | None = None) -> Split:
  """Opens a split of a data set.

  Args:
    dataset: 'arrays:DIR', or a TFDS name; see pp.sources.make_source.
    split: 'train', 'train[4096:]', 'validation', …; of arrays, as it was
      named when they were written.
    data_dir: TFDS's root folder; None: its default. Arrays do not need it.

  Raises:
    ConfigError: the data set or the split is not there.
  """
  if dataset.startswith(arrays.ARRAYS):
    return arrays.ArraysSplit(dataset, split)
  # Imported late: this needs TensorFlow, and arrays do not.
  from pp import stream
  return stream.open_tfds_split(dataset, split, data_dir)
