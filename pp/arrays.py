"""Preprocessed examples as arrays on disk: training without TensorFlow.

`dataset = 'arrays:DIR'`. tools.cache_arrays writes DIR; pp.array_files tells
what is in it.

Dimensions: B examples of a batch on this process · N examples of the split ·
R augmentations of an example.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pp import array_files, batches, order
from pp.array_files import Arrays, Header
from pp.batches import Batch, Pass
from pp.cached_arrays import Stored, open_cached
from uvim import finder
from uvim.categories import Category
from uvim.registry import ConfigError

ARRAYS = "arrays:"


class ArraysSplit:
  """A split that tools.cache_arrays wrote; implements pp.splits.Split.

  Attributes:
    dataset, split, num_examples, categories, folder: see pp.splits.Split;
      `folder` is DIR.
  """

  def __init__(self, dataset: str, split: str):
    """Looks the split up; reads no example.

    Args:
      dataset: 'arrays:DIR'.
      split: as it was named to tools.cache_arrays.

    Raises:
      ConfigError: no such folder or split, or a damaged header.
    """
    self.dataset = dataset
    self.split = split
    self.folder = finder.expand(dataset.removeprefix(ARRAYS))
    self._root = pathlib.Path(self.folder)
    # A split has a folder for each string. They are of the same data, so any of
    # their headers will do.
    headers = array_files.read_headers(self._root, split, dataset)
    if not headers:
      known = ", ".join(array_files.split_names(self._root))
      raise ConfigError(
          f"{dataset} has no split {split!r}; there are: {known or 'none'}. "
          "python -m tools.cache_arrays writes them.")
    self._data = headers[0].data
    self.num_examples = headers[0].num_examples
    self.categories = tuple(
        Category(*category) for category in headers[0].categories)

  def fingerprint(self, pp: str | None = None) -> dict[str, Any]:
    """What tells these examples from others; see pp.splits.Split.

    It is that of the data that they are from, and for a string a checksum of
    what was written.
    """
    if pp is None:
      return dict(self._data)
    header, _ = self._header(pp)
    return {**self._data, "arrays": header.checksum}

  def example(self, index: int) -> dict[str, Any]:
    """The raw example of that number, without its image.

    Raises:
      ConfigError: this split was written without raw examples, or they are
        damaged or of other data.
    """
    folder = array_files.truth_of(self._root, self.split)
    path = folder / f"{index}.npz"
    if not path.exists():
      raise ConfigError(f"{self.dataset}: {path.name} of split {self.split!r} "
                        "is not there; only splits of evaluators have it.")
    if self._truth_data != self._data:
      raise ConfigError(
          f"{self.dataset}: {str(folder)!r} is not of the data that split "
          f"{self.split!r} is of. Delete it, and write it again by "
          "tools.cache_arrays.")
    return array_files.read_truth(path, self.dataset)

  @functools.cached_property
  def _truth_data(self) -> dict[str, Any] | None:
    """Fingerprint of the data that the raw examples are from."""
    folder = array_files.truth_of(self._root, self.split)
    return array_files.read_truth_data(folder)

  def make_preprocess(self, pp: str, modules: Iterable[str] | None = None
                      ) -> str:
    """The string as it is: its ops ran when the arrays were written."""
    del modules
    return pp

  def train_batches(
      self,
      preprocess: str,
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
    """Endless training batches; see pp.splits.Split for what is not here.

    The augmentations repeat after as many epochs as there are. With the seed
    that the arrays were written with, the batches are those of
    pp.stream.TfdsSplit; another seed gives the same augmentations in another
    order. Bad examples are found when the arrays are written, so 'error' and
    'skip' are alike: a row that does not fit its checksum is an error.

    Raises:
      ConfigError: nothing was written for the string, or another number of
        augmentations; a cache of another split.
    """
    # Only checks the word: arrays hold no bad example.
    batches.skips(on_bad_example)
    header, arrays = self._open(preprocess)
    num_augmentations = header.augmentations
    if codes_per_image not in (None, num_augmentations):
      raise ConfigError(f"config.codes_per_image = {codes_per_image}, but "
                        f"{self.dataset} was written with {num_augmentations}.")
    cached_arrays = open_cached(
        cached, num_augmentations, num_examples=self.num_examples,
        where=f"{self.dataset} {self.split}")
    # The plans are those of pp.stream; only the examples come from arrays.
    rows = order.process_rows(batch_size, process_index, process_count)
    plan_of = functools.partial(
        order.plan_train, num_examples=self.num_examples,
        batch_size=batch_size, seed=seed, shuffle=shuffle,
        num_augmentations=num_augmentations, rows=rows)
    left_out = frozenset(unused)

    def make_batch(step: int) -> Batch:
      plan = plan_of(step)
      batch = arrays.batch(plan, left_out)
      if cached_arrays is not None:
        batch |= cached_arrays.of_plan(plan)
      return batch

    return map(make_batch, itertools.count(start_step))

  def eval_batches(
      self,
      preprocess: str,
      *,
      batch_size: int,
      seed: int = 0,
      process_index: int = 0,
      process_count: int = 1,
      on_bad_example: str = "error",
      cached: Mapping[str, Stored] | None = None,
  ) -> Pass:
    """Batches of the whole split in its order; see pp.splits.Split.

    Raises:
      ConfigError: nothing was written for the string; a seed, since the
        arrays were written with seed 0; a cache of another split.
    """
    batches.skips(on_bad_example)
    if seed:
      raise ConfigError(f"{self.dataset} was written for evaluation with "
                        f"seed 0, not {seed}.")
    _, arrays = self._open(preprocess)
    cached_arrays = open_cached(
        cached, 1, num_examples=self.num_examples,
        where=f"{self.dataset} {self.split}")
    rows = order.process_rows(batch_size, process_index, process_count)
    num_batches = batches.num_batches(self.num_examples, batch_size)
    # The last batch may be padded; the mask of the plan says where.
    plan_of = functools.partial(
        order.plan_eval, num_examples=self.num_examples,
        batch_size=batch_size, seed=seed, rows=rows)

    # A function and not an iterator, because a pass can be begun many times.
    def start() -> Iterator[Batch]:
      for step in range(num_batches):
        plan = plan_of(step)
        batch = arrays.batch(plan)
        if cached_arrays is not None:
          batch |= cached_arrays.of_plan(plan)
        batch["_mask"] = plan.mask_B
        yield batch

    return Pass(num_batches, start)

  def _open(self, pp: str) -> tuple[Header, Arrays]:
    """What was written for a string.

    Raises:
      ConfigError: nothing was, it is damaged, or `pp` is a function.
    """
    header, folder = self._header(pp)
    return header, Arrays(folder, header, self.dataset)

  def _header(self, pp: str) -> tuple[Header, pathlib.Path]:
    """Header and folder of what was written for a string."""
    if not isinstance(pp, str):
      raise ConfigError(f"{self.dataset}: preprocessing is the string that the "
                        f"arrays were written with, not {pp!r}.")
    folder = array_files.folder_of(self._root, self.split, pp)
    header = array_files.read_header(folder, self.dataset)
    if header is None:
      raise ConfigError(f"{self.dataset} has nothing for split "
                        f"{self.split!r} and preprocessing {pp!r}; "
                        "python -m tools.cache_arrays writes it.")
    return header, folder
