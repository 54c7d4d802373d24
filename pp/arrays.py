"""Preprocessed examples as arrays on disk: training without TensorFlow.

`dataset = 'arrays:DIR'`. tools.cache_arrays writes DIR:

  SPLIT-HASH/   one for each split and preprocessing string: header.json, and
                KEY.npy [R, N, …], R augmentations of N examples.
  SPLIT-truth/  for evaluators: one NUMBER.npz with the features of each example
                except its image.

Images are kept as bytes, which changes a value by 1/255 at most. Integers are
kept in the smallest type that holds them.

Dimensions: B examples of a batch on this process · N examples of the split ·
R augmentations of an example.
"""

import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pp import batches, order
from pp.batches import Batch, Pass
from uvim import files
from uvim.categories import Category
from uvim.registry import ConfigError

ARRAYS = "arrays:"
HEADER = "header.json"
IMAGES = ("image", "image_ctx")  # float32 in [−1, 1].

# Between the parts of a nested feature's name, as in 'panoptic_objects|id'.
_SEPARATOR = "|"


def folder_of(root: str | os.PathLike, split: str, pp: str) -> pathlib.Path:
  """The folder of a split's examples, preprocessed by a string."""
  # A preprocessing string is too long for the name of a folder, so its hash
  # stands for it.
  digest = hashlib.sha256(f"{split}\n{pp}".encode()).hexdigest()[:10]
  return pathlib.Path(root) / f"{_file_name(split)}-{digest}"


def truth_of(root: str | os.PathLike, split: str) -> pathlib.Path:
  """The folder of a split's raw examples."""
  return pathlib.Path(root) / f"{_file_name(split)}-truth"


def _file_name(split: str) -> str:
  """'train[:20]' → 'train_-20_': no brackets and no colons."""
  return re.sub(r"[^\w.:]+", "_", split).replace(":", "-")


def pack(key: str, value: np.ndarray) -> np.ndarray:
  """A value as it is stored: images as bytes, the rest as it is."""
  if key in IMAGES:
    # [-1, 1] becomes 0..255. Rounding moves a value by half a step at most,
    # which is 1/255.
    levels = np.round((value + 1) * 127.5)
    return np.clip(levels, 0, 255).astype(np.uint8)
  return value


def unpack(key: str, value: np.ndarray) -> np.ndarray:
  """A stored value as the models take it; undoes `pack`."""
  if key in IMAGES:
    return value.astype(np.float32) / np.float32(127.5) - 1
  # Ids stay as they are: an id may need all 64 bits.
  if key != "image/id" and np.issubdtype(value.dtype, np.integer):
    return value.astype(np.int32)
  # A copy: `value` may be a view of the file.
  return np.array(value)


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
      ConfigError: no such folder or split.
    """
    self.dataset = dataset
    self.split = split
    self.folder = dataset.removeprefix(ARRAYS)
    # A split has a folder for each string. They agree on its size and its
    # categories, so any of their headers will do.
    headers = _read_headers(pathlib.Path(self.folder))
    if split not in headers:
      raise ConfigError(
          f"{dataset} has no split {split!r}; there are: "
          f"{', '.join(sorted(headers)) or 'none'}. "
          "python -m tools.cache_arrays writes them.")
    header = headers[split]
    self.num_examples = header["num_examples"]
    self.categories = tuple(
        Category(*category) for category in header["categories"])

  def fingerprint(self, pp: str | None = None) -> dict[str, Any]:
    """What tells these examples from others; see pp.splits.Split."""
    del pp
    return {"name": "arrays", "version": "", "split": self.split,
            "num_examples": self.num_examples}

  def example(self, index: int) -> dict[str, Any]:
    """The raw example of that number, without its image.

    Raises:
      ConfigError: this split was written without raw examples.
    """
    path = truth_of(self.folder, self.split) / f"{index}.npz"
    if not path.exists():
      raise ConfigError(f"{self.dataset}: {path.name} of split {self.split!r} "
                        "is not there; only splits of evaluators have it.")
    out: dict[str, Any] = {}
    with np.load(path) as file:
      for name, value in file.items():
        # A .npz file is flat. This puts the parts of a nested feature back into
        # one dict.
        parent, _, key = name.rpartition(_SEPARATOR)
        group = out.setdefault(parent, {}) if parent else out
        group[key] = value
    return out

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
      codes: np.ndarray | None = None,
  ) -> Iterator[Batch]:
    """Endless training batches; see pp.splits.Split for what is not here.

    The augmentations repeat after as many epochs as there are. With the seed
    that the arrays were written with, the batches are those of
    pp.stream.TfdsSplit; another seed gives the same augmentations in another
    order. There are no bad examples, so 'error' and 'skip' are alike.

    Raises:
      ConfigError: nothing was written for the string, or another number of
        augmentations; codes of a cache, which cannot be used with arrays.
    """
    # Only checks the word: arrays hold no bad example.
    batches.skips(on_bad_example)
    header, arrays = self._open(preprocess)
    num_augmentations = header["augmentations"]
    if codes_per_image not in (None, num_augmentations):
      raise ConfigError(f"config.codes_per_image = {codes_per_image}, but "
                        f"{self.dataset} was written with {num_augmentations}.")
    if codes is not None:
      raise ConfigError("config.code_cache cannot be used with dataset "
                        f"{self.dataset}.")
    # The plans are those of pp.stream; only the examples come from arrays.
    rows = order.process_rows(batch_size, process_index, process_count)
    plan_of = functools.partial(
        order.plan_train, num_examples=self.num_examples,
        batch_size=batch_size, seed=seed,
        num_augmentations=num_augmentations, rows=rows)
    return (_batch(arrays, plan_of(step))
            for step in itertools.count(start_step))

  def eval_batches(
      self,
      preprocess: str,
      *,
      batch_size: int,
      seed: int = 0,
      process_index: int = 0,
      process_count: int = 1,
      on_bad_example: str = "error",
  ) -> Pass:
    """Batches of the whole split in its order; see pp.splits.Split.

    Raises:
      ConfigError: nothing was written for the string; a seed, since the
        arrays were written with seed 0.
    """
    batches.skips(on_bad_example)
    if seed:
      raise ConfigError(f"{self.dataset} was written for evaluation with "
                        f"seed 0, not {seed}.")
    _, arrays = self._open(preprocess)
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
        batch = _batch(arrays, plan)
        batch["_mask"] = plan.mask_B
        yield batch

    return Pass(num_batches, start)

  def _open(self, pp: str) -> tuple[dict[str, Any], Batch]:
    """What was written for a string.

    Returns:
      Its header, and key → array [R, N, …], which stays on disk.

    Raises:
      ConfigError: nothing was written for it, or it is a function.
    """
    if not isinstance(pp, str):
      raise ConfigError(f"{self.dataset}: preprocessing is the string that the "
                        f"arrays were written with, not {pp!r}.")
    folder = folder_of(self.folder, self.split, pp)
    header = files.read_json(folder / HEADER)
    if header is None:
      raise ConfigError(f"{self.dataset} has nothing for split "
                        f"{self.split!r} and preprocessing {pp!r}; "
                        "python -m tools.cache_arrays writes it.")
    # Mapped and not read: only rows that a batch asks for come into memory.
    arrays = {key: np.load(folder / name, mmap_mode="r")
              for key, name in header["files"].items()}
    return header, arrays


def _read_headers(root: pathlib.Path) -> dict[str, dict[str, Any]]:
  """A header of each split below a folder, by the split's name."""
  headers = {}
  for path in sorted(root.glob(f"*/{HEADER}")):
    header = files.read_json(path)
    if header is not None:
      headers.setdefault(header["split"], header)
  return headers


def _batch(arrays: Mapping[str, np.ndarray], plan: order.Plan) -> Batch:
  """The rows that a plan asks for, read from disk."""
  batch = {}
  for key, array in arrays.items():
    # Two arrays of numbers pick one [R, N] entry for each example.
    stored = array[plan.augmentation_B, plan.index_B]
    batch[key] = unpack(key, stored)
  return batch
