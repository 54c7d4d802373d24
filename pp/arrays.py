"""Preprocessed examples as arrays on disk: training without TensorFlow.

`dataset = 'arrays:DIR'`. tools.cache_arrays writes DIR:

  SPLIT-HASH/   one for each split and preprocessing string: header.json, and
                KEY.npy [R, N, …], R augmentations of N examples.
  SPLIT-truth/  for evaluators: one NUMBER.npz with the features of each example
                but its picture.

Pictures are kept as bytes, which moves a value of theirs by 1/255 at most, and
integers in the smallest type that holds them.

Dimensions: B examples of a batch on this host · N examples · R augmentations.
"""

import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pp import order
from pp.splits import ARRAYS
from uvim.categories import Category
from uvim.registry import ConfigError

HEADER = "header.json"
PICTURES = ("image", "image_ctx")  # float32 in [−1, 1].
Batch = dict[str, np.ndarray]


def folder_of(root: Any, split: str, pp: str) -> pathlib.Path:
  """Where the examples of a split lie, preprocessed by a string."""
  digest = hashlib.sha256(f"{split}\n{pp}".encode()).hexdigest()[:10]
  return pathlib.Path(root) / f"{_plain(split)}-{digest}"


def truth_of(root: Any, split: str) -> pathlib.Path:
  """Where the raw examples of a split lie."""
  return pathlib.Path(root) / f"{_plain(split)}-truth"


def _plain(split: str) -> str:
  return re.sub(r"[^\w.:]+", "_", split).replace(":", "-")


def pack(key: str, value: np.ndarray) -> np.ndarray:
  """As it is stored."""
  if key in PICTURES:
    return np.clip(np.round((value + 1) * 127.5), 0, 255).astype(np.uint8)
  return value


def unpack(key: str, value: np.ndarray) -> np.ndarray:
  """As the models take it; undoes `pack`."""
  if key in PICTURES:
    return value.astype(np.float32) / np.float32(127.5) - 1
  if key != "image/id" and np.issubdtype(value.dtype, np.integer):
    return value.astype(np.int32)
  return np.array(value)


class Source:
  """A split, as `pp.sources.Source` is one.

  Attributes:
    dataset: 'arrays:DIR'.
    split: as it was named to tools.cache_arrays.
    num_examples: how many there are.
    categories: of panoptic segmentation, or ().
    root: DIR.
  """

  def __init__(self, dataset: str, split: str):
    """See `make_source`."""
    self.dataset, self.split = dataset, split
    self.root = pathlib.Path(dataset.removeprefix(ARRAYS))
    headers = [json.loads(path.read_text())
               for path in sorted(self.root.glob(f"*/{HEADER}"))]
    here = [x for x in headers if x["split"] == split]
    if not here:
      raise ConfigError(
          f"{dataset} has no split {split!r}; there are: "
          f"{', '.join(sorted({x['split'] for x in headers})) or 'none'}. "
          "python -m tools.cache_arrays writes them.")
    self.num_examples = here[0]["num_examples"]
    self.categories = tuple(Category(*x) for x in here[0]["categories"])

  def __len__(self) -> int:
    return self.num_examples

  def example(self, index: int) -> dict[str, Any]:
    """The raw example but for its picture.

    Raises:
      ConfigError: this split was written without.
    """
    path = truth_of(self.root, self.split) / f"{index}.npz"
    if not path.exists():
      raise ConfigError(f"{self.dataset}: {path.name} of split {self.split!r} "
                        "is not there; only splits of evaluators have it.")
    out: dict[str, Any] = {}
    with np.load(path) as file:
      for name, value in file.items():
        parent, _, key = name.rpartition("|")
        (out.setdefault(parent, {}) if parent else out)[key] = value
    return out


def make_source(dataset: str, split: str, data_dir: Any = None) -> Source:
  """Opens a split; `data_dir` is not looked at.

  Raises:
    ConfigError: no such folder or split.
  """
  del data_dir
  return Source(dataset, split)


def make_preprocess(pp: str, modules: Any = None) -> str:
  """The string as it is: all was done when the arrays were written."""
  del modules
  return pp


def _open(source: Source, pp: str) -> tuple[dict[str, Any], Batch]:
  """(header, key → array [R, N, …] left on disk) of what a string made."""
  folder = folder_of(source.root, source.split, pp)
  if not (folder / HEADER).exists():
    raise ConfigError(f"{source.dataset} has nothing for split "
                      f"{source.split!r} and preprocessing {pp!r}; "
                      "python -m tools.cache_arrays writes it.")
  header = json.loads((folder / HEADER).read_text())
  return header, {key: np.load(folder / file, mmap_mode="r")
                  for key, file in header["files"].items()}


def _batch(arrays: Mapping[str, np.ndarray], plan: order.Plan) -> Batch:
  return {key: unpack(key, value[plan.round_B, plan.index_B])
          for key, value in arrays.items()}


def train_batches(source: Source, pp: str, *, batch_size: int, seed: int,
                  start_step: int = 0, process_index: int = 0,
                  process_count: int = 1, codes_per_image: int | None = None,
                  codes: np.ndarray | None = None, **_: Any
                  ) -> Iterator[Batch]:
  """Endless batches; augmentations repeat after as many epochs as there are.

  For the seed they were written with, those of `pp.stream.train_batches`.
  Another one gives another order of the same augmentations.

  Raises:
    ConfigError: nothing was written for the string, or another number of
      augmentations; codes of a cache, which are not read with these.
  """
  header, arrays = _open(source, pp)
  rounds = header["augmentations"]
  if codes_per_image not in (None, rounds):
    raise ConfigError(f"config.codes_per_image = {codes_per_image}, but "
                      f"{source.dataset} was written with {rounds}.")
  if codes is not None:
    raise ConfigError("config.code_cache cannot be used with dataset "
                      f"{source.dataset}.")
  rows = order.host_rows(batch_size, process_index, process_count)
  plan = functools.partial(
      order.plan_train, num_examples=source.num_examples,
      batch_size=batch_size, seed=seed, num_rounds=rounds, rows=rows)
  return (_batch(arrays, plan(step)) for step in _count(start_step))


def _count(step: int) -> Iterator[int]:
  while True:
    yield step
    step += 1


def eval_batches(source: Source, pp: str, *, batch_size: int, seed: int = 0,
                 process_index: int = 0, process_count: int = 1, **_: Any
                 ) -> tuple[int, Callable[[], Iterator[Batch]]]:
  """As `pp.stream.eval_batches`.

  Raises:
    ConfigError: nothing was written for the string.
  """
  _, arrays = _open(source, pp)
  rows = order.host_rows(batch_size, process_index, process_count)
  num_batches = -(-source.num_examples // batch_size)

  def batches() -> Iterator[Batch]:
    for step in range(num_batches):
      plan = order.plan_eval(
          step, num_examples=source.num_examples, batch_size=batch_size,
          seed=seed, rows=rows)
      yield {**_batch(arrays, plan), "_mask": plan.mask_B}

  return num_batches, batches
