"""What each host reads at each step: a pure function of (seed, step).

Dimensions: B examples of a batch on this host · N examples of the split.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from uvim.registry import ConfigError

_WORD = (1 << 64) - 1


class Plan(NamedTuple):
  """What one host reads at one step."""
  index_B: np.ndarray  # int64, position in the split
  round_B: np.ndarray  # int64, which augmentation of it: its epoch, if all
                       # epochs differ, else that modulo their number
  seed_B2: np.ndarray  # int64 [B, 2], one seed per example
  mask_B: np.ndarray   # bool, False for padding


@functools.lru_cache(maxsize=2)  # A batch may straddle two epochs.
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """The order of one epoch: a permutation of 0..num_examples-1, int64 [N].

  Philox is counter-based: neighbouring seeds and epochs give unrelated orders
  (tf.random.experimental.index_shuffle does not: r = 0.2–0.45).
  """
  key = np.array([seed & _WORD, epoch], np.uint64)
  order = np.random.Generator(np.random.Philox(key=key)).permutation(
      num_examples)
  order.setflags(write=False)
  return order


def _mix(x: np.ndarray) -> np.ndarray:
  """splitmix64's finaliser on uint64, elementwise: every bit reaches all."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def example_seeds(seed: int, epoch_B: Sequence[int] | np.ndarray,
                  index_B: Sequence[int] | np.ndarray) -> np.ndarray:
  """A seed for each example from (seed, epoch, index) alone: int64 [B, 2]."""
  golden = np.uint64(0x9E3779B97F4A7C15)
  state = np.full(len(index_B), seed & _WORD, np.uint64)
  for part in (epoch_B, index_B):
    state = _mix(state + golden) + np.asarray(part).astype(np.uint64)
  high = _mix(state + golden)
  return np.stack([high, _mix(high + golden)], axis=1).view(np.int64)


def stand_ins(seed_2: np.ndarray, num_examples: int) -> Iterator[int]:
  """Positions to try in place of an example that cannot be read, endless.

  Drawn from the seed of that example, so they are the same on any host and
  after any restart.

  Args:
    seed_2: int64 [2], of the bad example.
    num_examples: of the split.
  """
  rng = np.random.Generator(np.random.Philox(key=seed_2.view(np.uint64)))
  while True:
    yield int(rng.integers(num_examples))


def plan_train(step: int, *, num_examples: int, batch_size: int, seed: int,
               shuffle: bool = True, num_rounds: int | None = None,
               rows: slice = slice(None)) -> Plan:
  """What to read at a training step.

  Example i of step s is number s * batch_size + i of an endless run through
  the epochs, so a batch may straddle two of them (or many, if the data set is
  smaller than a batch) and none is dropped at an epoch's end.

  Args:
    step: 0, 1, …
    num_examples: of the split.
    batch_size: global.
    seed: any integer.
    shuffle: False keeps the order of the files.
    num_rounds: after so many epochs the augmentations of an example repeat
      (the order does not); None: never.
    rows: the part of the global batch that this host reads.
  """
  position_B = np.arange(batch_size, dtype=np.int64)[rows] + step * batch_size
  epoch_B, index_B = np.divmod(position_B, num_examples)
  if shuffle:
    slot_B = index_B
    index_B = np.empty_like(slot_B)
    for epoch in np.unique(epoch_B).tolist():
      here = epoch_B == epoch
      index_B[here] = epoch_order(seed, epoch, num_examples)[slot_B[here]]
  round_B = epoch_B if num_rounds is None else epoch_B % num_rounds
  return Plan(index_B, round_B, example_seeds(seed, round_B, index_B),
              np.ones(len(index_B), bool))


def plan_eval(step: int, *, num_examples: int, batch_size: int, seed: int,
              rows: slice = slice(None)) -> Plan:
  """What to read at an evaluation step: 0..N-1 in order, then padding.

  Padding repeats the last example: it is sure to pass the ops.
  """
  position_B = np.arange(batch_size, dtype=np.int64)[rows] + step * batch_size
  index_B = np.minimum(position_B, num_examples - 1)
  round_B = np.zeros_like(index_B)
  return Plan(index_B, round_B, example_seeds(seed, round_B, index_B),
              position_B < num_examples)


def process_rows(batch_size: int, index: int, count: int) -> slice:
  """The part of a global batch that process `index` of `count` reads."""
  if batch_size < 1 or batch_size % count:
    raise ConfigError(
        f"batch_size: {batch_size} must be a positive multiple of the number "
        f"of processes, {count}.")
  local = batch_size // count
  return slice(index * local, (index + 1) * local)
