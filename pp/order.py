"""What each process reads at each step: a pure function of (seed, step).

Dimensions: B examples of a batch on this process · N examples of the split.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from uvim.registry import ConfigError

# Integers, one for each example of a batch.
Numbers = Sequence[int] | np.ndarray

# Stands for the number of an example whose place zeros have taken.
BLANK = -1

_MASK_64 = (1 << 64) - 1
# Constants of splitmix64 (Steele et al. 2014). The first is 2**64 divided by
# the golden ratio.
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
_FIRST_SHIFT = np.uint64(30)
_SECOND_SHIFT = np.uint64(27)
_THIRD_SHIFT = np.uint64(31)


class Plan(NamedTuple):
  """What one process reads at one step.

  Attributes:
    index_B: int64, numbers of the examples in the split; BLANK: zeros.
    augmentation_B: int64, which augmentation of each: the epoch, or, where
      augmentations repeat, the epoch modulo their number.
    seed_B2: int64 [B, 2], a seed for each example.
    mask_B: bool, False for padding.
  """
  index_B: np.ndarray
  augmentation_B: np.ndarray
  seed_B2: np.ndarray
  mask_B: np.ndarray


@functools.lru_cache(maxsize=2)  # A batch may lie in two epochs.
def epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
  """The order of one epoch: a permutation of 0..num_examples-1, int64 [N].

  Philox is counter-based: neighboring seeds and epochs give unrelated orders
  (tf.random.experimental.index_shuffle does not: r = 0.2–0.45).
  """
  # The key has two words, for the seed and for the epoch. The mask lets the
  # seed be any integer, also a negative one.
  words = [seed & _MASK_64, epoch]
  key = np.array(words, np.uint64)
  rng = _philox(key)
  order = rng.permutation(num_examples)
  # The cache gives the same array to every caller.
  order.setflags(write=False)
  return order


def _philox(key: np.ndarray) -> np.random.Generator:
  """Random numbers from a key of two words, uint64 [2]."""
  bits = np.random.Philox(key=key)
  return np.random.Generator(bits)


def _mix(state: np.ndarray) -> np.ndarray:
  """splitmix64's finalizer on uint64, elementwise: every bit reaches all."""
  # Products wrap around at 2**64. splitmix64 wants that.
  state = state ^ (state >> _FIRST_SHIFT)
  state = state * _FIRST_FACTOR
  state = state ^ (state >> _SECOND_SHIFT)
  state = state * _SECOND_FACTOR
  return state ^ (state >> _THIRD_SHIFT)


def example_seeds(seed: int, augmentation_B: Numbers, index_B: Numbers
                  ) -> np.ndarray:
  """A seed for each example from three numbers alone: int64 [B, 2].

  Args:
    seed: of the run; any integer.
    augmentation_B: which augmentation of each example.
    index_B: numbers of the examples in the split.
  """
  num_examples = len(index_B)
  state = np.full(num_examples, seed & _MASK_64, np.uint64)
  # The state is mixed before each number is added. So the pairs (1, 2) and (2,
  # 1) give unrelated seeds.
  for numbers_B in (augmentation_B, index_B):
    state = _mix(state + _INCREMENT)
    numbers_B = np.asarray(numbers_B)
    state = state + numbers_B.astype(np.uint64)
  first = _mix(state + _INCREMENT)
  second = _mix(first + _INCREMENT)
  # TensorFlow takes seeds as int64. The view keeps the bits.
  seed_B2 = np.stack([first, second], axis=1)
  return seed_B2.view(np.int64)


def stand_ins(seed_2: np.ndarray, num_examples: int) -> Iterator[int]:
  """Examples to try in place of one that cannot be read; endless.

  They are drawn from the seed of that example, so they are the same in any
  process and after any restart.

  Args:
    seed_2: int64 [2], of the bad example.
    num_examples: of the split.
  """
  # A generator of its own: to replace an example does not disturb others.
  rng = _philox(seed_2.view(np.uint64))
  while True:
    index = rng.integers(num_examples)
    yield int(index)


def plan_train(
    step: int,
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    num_augmentations: int | None = None,
    rows: slice = slice(None),
) -> Plan:
  """What to read at a training step.

  Example i of step s is number s * batch_size + i of an endless run through
  the epochs. So a batch may lie in two of them (or in many, if the data set is
  smaller than a batch), and no example is dropped at the end of an epoch.

  Args:
    step: 0, 1, …
    num_examples: of the split.
    batch_size: of all processes together.
    seed: any integer.
    shuffle: False keeps the order of the files.
    num_augmentations: after so many epochs the augmentations of an example
      repeat, though the order does not; None: they never repeat.
    rows: the part of the batch that this process reads; see `process_rows`.
  """
  # A place in the endless run is an epoch and a place within it.
  position_B = _positions(step, batch_size, rows)
  epoch_B, index_B = np.divmod(position_B, num_examples)
  if shuffle:
    index_B = _shuffle(epoch_B, index_B, seed, num_examples)
  if num_augmentations is None:
    augmentation_B = epoch_B
  else:
    augmentation_B = epoch_B % num_augmentations
  seed_B2 = example_seeds(seed, augmentation_B, index_B)
  # Training has no padding.
  mask_B = np.ones(len(index_B), bool)
  return Plan(index_B, augmentation_B, seed_B2, mask_B)


def plan_eval(
    step: int,
    *,
    num_examples: int,
    batch_size: int,
    seed: int,
    rows: slice = slice(None),
) -> Plan:
  """What to read at an evaluation step: 0..N-1 in order, then padding.

  Padding repeats the last example, because that one surely passes the ops.
  """
  position_B = _positions(step, batch_size, rows)
  index_B = np.minimum(position_B, num_examples - 1)
  # Evaluation is a single pass, so each example has one augmentation.
  augmentation_B = np.zeros_like(index_B)
  seed_B2 = example_seeds(seed, augmentation_B, index_B)
  mask_B = position_B < num_examples
  return Plan(index_B, augmentation_B, seed_B2, mask_B)


def _positions(step: int, batch_size: int, rows: slice) -> np.ndarray:
  """Places of a step's examples in the endless run, of one process."""
  first = step * batch_size
  places = np.arange(batch_size, dtype=np.int64)
  # The places are those of the whole batch, so the number of processes does not
  # change what is read.
  return first + places[rows]


def _shuffle(epoch_B: np.ndarray, place_B: np.ndarray, seed: int,
             num_examples: int) -> np.ndarray:
  """The examples at these places of these epochs: int64 [B]."""
  index_B = np.empty_like(place_B)
  # One look-up for each epoch that the batch lies in; mostly there is one.
  for epoch in np.unique(epoch_B).tolist():
    is_epoch_B = epoch_B == epoch
    order = epoch_order(seed, epoch, num_examples)
    places = place_B[is_epoch_B]
    index_B[is_epoch_B] = order[places]
  return index_B


def process_rows(batch_size: int, index: int, count: int) -> slice:
  """The part of a batch that process `index` of `count` reads.

  Raises:
    ConfigError: the processes cannot share the batch evenly.
  """
  if batch_size < 1 or batch_size % count:
    raise ConfigError(
        f"batch_size: {batch_size} must be a positive multiple of the number "
        f"of processes, {count}.")
  local_size = batch_size // count
  first = index * local_size
  return slice(first, first + local_size)
