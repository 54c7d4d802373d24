"""What every evaluator needs: clean host predictions, and the nearest resize.

Suffixes: B batch · H W pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from uvim.learn import sharding

Batch = Mapping[str, np.ndarray]
_HIGH = "image/id_high"
_SKIPPED = "_skipped"


def predict_all(
    predict_fn: Callable[[Any, dict[str, Any]], dict[str, Any]],
    variables: Any, batches: Iterable[Batch], *,
    put: Callable[[dict[str, np.ndarray]], dict[str, Any]],
) -> Iterator[dict[str, Any] | None]:
  """Predictions example by example on the host, in order, without padding.

  One batch is being computed while the previous one is consumed. Every
  process must run this to the end; each sees all examples.

  Args:
    predict_fn: jitted (variables, batch) -> dict of [B,...]. The batch holds
      'image/id' as uint32 [B], the low half of the id, to seed samples with;
      it holds no '_mask'.
    variables: passed through.
    batches: dicts of this process's numpy arrays; '_mask' bool [B] is False
      for padding (absent: no padding), 'image/id' int64 [B] is optional, and
      so is '_skipped' bool [B], True for what could not be read.
    put: makes device arrays of a dict of numpy arrays (`shard_batch`).

  Yields:
    A dict of numpy arrays, one example of what predict_fn returns, and
    'image/id' as int; None for an example that was skipped.
  """
  pending = None
  for batch in batches:
    started = _start(predict_fn, variables, put(_split_ids(batch)))
    if pending is not None:
      yield from _finish(pending)
    pending = started
  if pending is not None:
    yield from _finish(pending)


def _split_ids(batch: Batch) -> dict[str, np.ndarray]:
  """Ids as two 32-bit halves: without x64 JAX cuts an int64 silently."""
  batch = dict(batch)
  if "_mask" not in batch:
    batch["_mask"] = np.ones(len(next(iter(batch.values()))), bool)
  if "image/id" in batch:
    ids = np.asarray(batch["image/id"]).astype(np.int64).view(np.uint64)
    batch["image/id"] = (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    batch[_HIGH] = (ids >> np.uint64(32)).astype(np.uint32)
  return batch


def _start(predict_fn, variables, batch: dict[str, Any]) -> dict[str, Any]:
  """Dispatches a prediction; nothing is waited for.

  Masks and ids go through the device too, for with several processes it is the
  global batch that comes back.
  """
  aside = {k: batch.pop(k) for k in ("_mask", _SKIPPED, _HIGH) if k in batch}
  if "image/id" in batch:
    aside["image/id"] = batch["image/id"]
  return {**predict_fn(variables, batch), **aside}


def _finish(pending: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
  """Waits for a batch and yields its examples."""
  out = sharding.gather_to_host(pending)
  mask_B = out.pop("_mask")
  skipped_B = out.pop(_SKIPPED, np.zeros_like(mask_B))
  if "image/id" in out:
    high = out.pop(_HIGH).astype(np.uint64) << np.uint64(32)
    out["image/id"] = (high | out["image/id"]).view(np.int64)
  for i in np.flatnonzero(mask_B | skipped_B):
    if skipped_B[i]:
      yield None
      continue
    example = {key: value[i] for key, value in out.items()}
    if "image/id" in example:
      example["image/id"] = int(example["image/id"])
    yield example


def numbered(predictions: Iterable[dict[str, Any] | None], num_examples: int
             ) -> Iterator[tuple[int, dict[str, Any]]]:
  """(place, prediction) of as many predictions as there are examples.

  Those that are None, of skipped examples, are counted and left out.

  Raises:
    ValueError: there are more or fewer.
  """
  count = 0
  for prediction in predictions:
    if count == num_examples:
      raise ValueError("more predictions than examples in the split: "
                       f"{num_examples}")
    if prediction is not None:
      yield count, prediction
    count += 1
  if count != num_examples:
    raise ValueError(f"{count} predictions for the {num_examples} examples of "
                     "the split")


def check_id(index: int, prediction: Mapping[str, Any], image_id: int) -> None:
  """Notices a prediction that is not of the image `image_id`.

  The order is the contract; a slip would only show as a low score.
  """
  if prediction.get("image/id", image_id) != image_id:
    raise ValueError(f"prediction {index} is of image {prediction['image/id']},"
                     f" the truth of image {image_id}")


def with_truth(predictions: Iterable[dict[str, Any] | None], source: Any
               ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
  """Each prediction with the raw example it is of, read one at a time.

  Args:
    predictions: one for each example of the source, in its order; None, of a
      skipped example, is left out.
    source: `.num_examples` and `.example(index)`.

  Raises:
    ValueError: the predictions differ from the examples in order or number.
  """
  for index, prediction in numbered(predictions, source.num_examples):
    example = source.example(index)
    check_id(index, prediction, int(example["image/id"]))
    yield prediction, example


def resize_nearest(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[H,W,...] to `size` by the pixel under each new centre.

  Source floor((k + 0.5) * in / out), in integers so that no rounding can move
  a border (jax.image.resize "nearest" under jit is one row off where a centre
  falls on a border: 512 to 427).
  """
  if x.shape[:2] == tuple(size):
    return x
  rows, cols = (
      (2 * np.arange(new) + 1) * old // (2 * new)
      for old, new in zip(x.shape[:2], size, strict=True))
  return x.take(rows, axis=0).take(cols, axis=1)
