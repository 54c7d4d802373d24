"""Brings predictions to the host, with their ids and in their order.

Suffixes: B batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from uvim.learn import sharding

Batch = Mapping[str, np.ndarray]
Arrays = dict[str, Any]
Prediction = Mapping[str, Any]
Truth = Mapping[str, Any]
# None stands for an example that could not be read.
Predictions = Iterable[Prediction | None]
PredictFn = Callable[[Any, Arrays], Arrays]  # (variables, batch) → outputs.
PutFn = Callable[[Arrays], Arrays]
ReadTruth = Callable[[int], Truth | None]  # Place in the split → truth.

_ID = "image/id"
_HIGH_BITS = "image/id_high"
_MASK = "_mask"
_SKIPPED = "_skipped"
_NUM_LOW_BITS = np.uint64(32)


def predict_all(
    predict_fn: PredictFn,
    variables: Any,
    batches: Iterable[Batch],
    *,
    put: PutFn,
) -> Iterator[Arrays | None]:
  """Predictions on the host, one example at a time, in order, without padding.

  The device computes one batch while the caller consumes the previous one.
  Every process must run this to the end; each sees all examples.

  Args:
    predict_fn: jitted (variables, batch) → dict of [B, …]. The batch holds
      'image/id' as uint32 [B], the low half of the id, to seed samples with;
      it holds no '_mask'.
    variables: passed through.
    batches: dicts of this process's numpy arrays. '_mask' bool [B] is False
      for padding (absent: no padding). 'image/id' int64 [B] is optional, and
      so is '_skipped' bool [B], True for examples that could not be read.
    put: makes device arrays of a dict of numpy arrays (`shard_batch`).

  Yields:
    A dict of numpy arrays, one example of what predict_fn returns, and
    'image/id' as int; None for an example that was skipped.
  """
  previous = None
  for batch in batches:
    # Dispatched first: the device works on it while `previous` is consumed.
    on_device = put(_split_ids(batch))
    current = _start(predict_fn, variables, on_device)
    if previous is not None:
      yield from _finish(previous)
    previous = current
  if previous is not None:
    yield from _finish(previous)


def seed_ids(ids_B: np.ndarray) -> np.ndarray:
  """The low 32 bits of integer ids, uint32 [B], to seed samples with.

  JAX without x64 would cut an int64 silently. Here it happens on purpose.
  """
  # A cast of integers keeps the low bits, also of negative ids.
  whole_B = np.asarray(ids_B, np.int64)
  return whole_B.astype(np.uint32)


def _high_bits(ids_B: np.ndarray) -> np.ndarray:
  """The other 32 bits of the ids: uint32 [B]."""
  # Unsigned, so that the shift fills up with zeros.
  whole_B = np.asarray(ids_B, np.int64)
  bits_B = whole_B.view(np.uint64)
  high_B = bits_B >> _NUM_LOW_BITS
  return high_B.astype(np.uint32)


def _split_ids(batch: Batch) -> Arrays:
  """The batch with its ids in two halves, and with a mask."""
  batch = dict(batch)  # The caller keeps its own.
  if _MASK not in batch:
    any_array = next(iter(batch.values()))
    batch_size = len(any_array)
    # Without a mask nothing is padding.
    batch[_MASK] = np.ones(batch_size, bool)
  if _ID in batch:
    ids_B = batch[_ID]
    # JAX without x64 has no int64, so an id travels as two uint32.
    batch[_ID] = seed_ids(ids_B)
    batch[_HIGH_BITS] = _high_bits(ids_B)
  return batch


def _join_ids(low_B: np.ndarray, high_B: np.ndarray) -> np.ndarray:
  """Undoes `_split_ids`: int64 [B]."""
  high_bits_B = high_B.astype(np.uint64) << _NUM_LOW_BITS
  bits_B = high_bits_B | low_B
  return bits_B.view(np.int64)


def _start(predict_fn, variables, batch: Arrays) -> Arrays:
  """Dispatches a prediction; does not wait for it.

  Masks and ids go through the device too: with several processes, what comes
  back is the global batch, and they must be those of the global batch.
  """
  aside = {}
  for key in (_MASK, _SKIPPED, _HIGH_BITS):
    if key in batch:
      aside[key] = batch.pop(key)
  if _ID in batch:
    # The model needs the id as well, to seed its samples: not popped.
    aside[_ID] = batch[_ID]
  # JAX returns at once; `_finish` waits for the numbers.
  predicted = predict_fn(variables, batch)
  return {**predicted, **aside}


def _finish(pending: Arrays) -> Iterator[Arrays | None]:
  """Waits for a batch and yields its examples."""
  arrays = sharding.gather_to_host(pending)
  is_real_B = arrays.pop(_MASK)
  none_skipped_B = np.zeros_like(is_real_B)
  is_skipped_B = arrays.pop(_SKIPPED, none_skipped_B)
  if _ID in arrays:
    high_B = arrays.pop(_HIGH_BITS)
    arrays[_ID] = _join_ids(arrays[_ID], high_B)
  # A skipped example is masked like padding, but has a place in the split.
  has_place_B = is_real_B | is_skipped_B
  for row in np.flatnonzero(has_place_B):
    if is_skipped_B[row]:
      yield None
    else:
      yield _example(arrays, row)


def _example(arrays: Arrays, row: int) -> Arrays:
  """One row of a batch, its id as a plain int."""
  example = {key: array[row] for key, array in arrays.items()}
  if _ID in example:
    example[_ID] = int(example[_ID])
  return example


def numbered(
    predictions: Predictions,
    num_examples: int,
) -> Iterator[tuple[int, Prediction]]:
  """(place, prediction) of as many predictions as there are examples.

  None stands for a skipped example; it is counted and left out.

  Raises:
    ValueError: there are more or fewer.
  """
  count = 0
  for prediction in predictions:
    if count == num_examples:
      raise ValueError("more predictions than examples in the split: "
                       f"{num_examples}")
    if prediction is not None:
      # The place counts skipped examples too: it is the place in the split.
      yield count, prediction
    count += 1
  if count != num_examples:
    raise ValueError(f"{count} predictions for the {num_examples} examples of "
                     "the split")


def check_id(index: int, prediction: Prediction, image_id: int) -> None:
  """Raises a ValueError if a prediction is not of the image `image_id`.

  The order is the contract. A slip would only show as a low score.
  """
  if prediction.get(_ID, image_id) != image_id:
    raise ValueError(f"prediction {index} is of image {prediction[_ID]}, the "
                     f"truth of image {image_id}")


def with_truth(
    predictions: Predictions,
    num_examples: int,
    read_truth: ReadTruth,
) -> Iterator[tuple[Prediction, Truth | None]]:
  """Each prediction with the truth of its example, read one at a time.

  Args:
    predictions: one for each example of a split, in its order. None stands
      for a skipped example; it is left out.
    num_examples: of the split.
    read_truth: place in the split → a mapping with 'image/id', or None where
      no truth is needed; `split.example` is such a function.

  Yields:
    (prediction, truth). A prediction without 'image/id' gets its place in the
    split as its id.

  Raises:
    ValueError: the predictions differ from the examples in order or number.
  """
  for index, prediction in numbered(predictions, num_examples):
    # Only of examples that were predicted: a skipped one cannot be read.
    truth = read_truth(index)
    if truth is not None:
      image_id = int(truth[_ID])
      check_id(index, prediction, image_id)
    # The prediction's own id replaces the place, if it has one.
    yield {_ID: index, **prediction}, truth
