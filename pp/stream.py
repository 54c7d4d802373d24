"""Batches of numpy arrays as a pure function of (seed, step).

Path: order (numpy) → read (one Python call per step) → parse and preprocess
(tf.data, a bounded number of threads, order kept) → batch → numpy.
Nothing here has a state to save: opening at step 10**6 costs what opening at
step 0 does, and any number of hosts reads the same global batch.

Dimensions: B examples of a batch on this host · N examples of the split ·
R augmentations of an example · L words of a guiding code.
"""

import functools
import itertools
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pp import builder, order
from pp.order import (
    Plan,
    epoch_order,
    example_seeds,
    plan_eval,
    plan_train,
)
from pp.sources import Source
from uvim.registry import ConfigError, lookup

__all__ = ["Plan", "epoch_order", "eval_batches", "example_seeds",
           "make_preprocess", "plan_eval", "plan_train", "train_batches"]

Batch = dict[str, np.ndarray]
Preprocess = Callable[[dict[str, Any], tf.Tensor], dict[str, Any]]

_SKIPS = {"error": False, "skip": True}
_MAX_TRIES = 100    # Bad examples in a row, after which all are taken for bad.
_MAX_WARNINGS = 20  # Of bad examples; all of them are counted.
# What only the oracle looks at, which is not asked where its codes are known.
_ORACLE_KEYS = ("labels", "image_ctx")


def make_preprocess(pp: str | Preprocess, modules: Any = None) -> Preprocess:
  """The function of a preprocessing string; a callable is taken as it is.

  The paper's evaluation strings start after decoding: 'decode' is put in front
  where no decode op is named.
  """
  if callable(pp):
    return pp
  steps = builder.build(pp, modules)
  if any(step.name.startswith("decode") for step in steps.steps):
    return steps
  # A function of its own: "op 3" in a message stays the reader's third op.
  decode = builder.build("decode")
  return lambda data, seed: steps(decode(data, seed), seed)


def _numbers(data: dict[str, Any]) -> dict[str, Any]:
  """Without strings: they can become neither a batch nor a device array."""
  out = {}
  for key, value in data.items():
    if isinstance(value, dict):
      value = _numbers(value)
    elif value.dtype == tf.string:
      continue
    out[key] = value
  return out


def _num_cores() -> int:
  """Cores this process may use: a scheduler may grant fewer than there are."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class _Reader:
  """Reads, parses, preprocesses and batches what a plan asks for."""

  def __init__(self, source: Source, pp: str | Preprocess, *, modules: Any,
               plan: Callable[[int], Plan], num_threads: int | None,
               seed: int, evaluates: bool, on_bad_example: str = "error",
               codes: np.ndarray | None = None):
    self.source = source
    self.pp = pp
    self.plan = plan
    self.preprocess = make_preprocess(pp, modules)
    self.num_threads = num_threads or min(8, _num_cores())
    self.seed = seed
    self.evaluates = evaluates
    self.skips = lookup(_SKIPS, on_bad_example, "on_bad_example")
    self.codes_RNL = codes
    self.where = f"{source.dataset} {source.split}"
    self.warned: set[int] = set()

  def read(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
    """Serialised examples of a step, their seeds, positions and mask."""
    plan = self.plan(int(step))
    raw_B = np.array(self._raw(plan.index_B), object)
    return raw_B, plan.seed_B2, plan.index_B, plan.mask_B

  def _raw(self, index_B: np.ndarray) -> list[bytes]:
    """What the source holds; b"" for what cannot be read, if that may be."""
    if not self.skips:
      return self.source.read(index_B)
    out = []
    for index in index_B.tolist():
      try:
        out += self.source.read([index])
      except OSError:
        out.append(b"")  # Not an example: parsing it fails, it alone.
    return out

  def example(self, raw, seed_2, index, mask) -> dict[str, Any]:
    """One example: parse, preprocess, re-attach what `keep` dropped."""
    data = self.source.parse(raw, index)
    image_id = data["image/id"]
    out = _numbers(self.preprocess(data, seed_2))
    if self.codes_RNL is not None:
      out = {k: v for k, v in out.items() if k not in _ORACLE_KEYS}
    if self.skips and self.evaluates:
      # The truth of an evaluator is read elsewhere: an example whose truth is
      # broken must count as bad here too, though no op may look at it. (For a
      # mere control dependency TensorFlow would not decode it.)
      parts = tf.nest.flatten(data, expand_composites=True)
      out["_read"] = tf.add_n([tf.size(part) for part in parts])
    return {**out, "image/id": image_id, "_mask": mask}

  def dataset(self, steps: range, batch_size: int) -> tf.data.Dataset:
    """Consecutive steps; traces the ops, so their mistakes show.

    Batches, or, where bad examples are skipped, single examples: in a batch
    one that fails would take the others along.
    """
    types = (tf.string, tf.int64, tf.int64, tf.bool)

    def read(step):
      out = tf.numpy_function(self.read, [step], types)
      for tensor, shape in zip(out, ((), (2,), (), ()), strict=True):
        tensor.set_shape((batch_size, *shape))
      return tuple(out)

    # Autograph would wrap our errors in its own text; ops use tf.cond.
    plain = tf.autograph.experimental.do_not_convert
    data = tf.data.Dataset.range(steps.start, steps.stop)
    data = data.map(plain(read)).prefetch(1)
    data = data.unbatch().map(
        plain(self.example), num_parallel_calls=self.num_threads,
        deterministic=True)
    if self.skips:
      data = data.prefetch(batch_size)
    else:
      data = data.batch(batch_size, drop_remainder=True).prefetch(1)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = self.num_threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)

  def batches(self, dataset: tf.data.Dataset, steps: range
              ) -> Iterator[Batch]:
    """Numpy batches; a failing example is named in the error.

    An iterator that is left halfway must go before the interpreter does: its
    threads read ahead in Python, and would wait at exit, for ever, for a lock
    that is no longer given.
    """
    live = [dataset.as_numpy_iterator()]
    batches = self._batches(live, steps)
    weakref.finalize(batches, live.clear)  # When dropped, or at exit.
    return batches

  def _batches(self, live: list[Iterator[Batch]], steps: range
               ) -> Iterator[Batch]:
    for step in steps:
      plan = self.plan(step) if self.skips or self.codes_RNL is not None else ()
      if self.skips:
        batch, plan = self._collect(live, step, plan)
      else:
        try:
          batch = next(live[0])
        except tf.errors.OpError as error:
          raise self.explain(step, error) from error
      if not self.evaluates:
        del batch["_mask"]
      if self.codes_RNL is not None:
        batch["code"] = self._codes(plan)
      yield batch

  def _collect(self, live: list[Iterator[Batch]], step: int, plan: Plan
               ) -> tuple[Batch, Plan]:
    """A batch without bad examples, and the plan of what is in it.

    '_skipped' bool [B] is True where training got another example instead and
    evaluation got zeros that '_mask' hides.
    """
    rows, index_B = [], plan.index_B.copy()
    skipped_B = np.zeros(len(index_B), bool)
    for row, index in enumerate(plan.index_B.tolist()):
      try:
        example = next(live[0])
        bad = self._lacks_code(plan.round_B[row], index)
      except tf.errors.OpError as error:
        bad = builder.first_line(error)
      if bad:
        self._warn(index, bad)
        skipped_B[row] = plan.mask_B[row]
        example, index_B[row] = (
            (self.blank, index) if self.evaluates else
            self._stand_in(plan, row))
      rows.append(example)
    try:
      batch = tf.nest.map_structure(lambda *x: np.stack(x), *rows)
    except ValueError as error:
      raise self.explain(step, error) from error
    batch.pop("_read", None)
    batch["_skipped"] = skipped_B
    return batch, plan._replace(index_B=index_B)

  def _stand_in(self, plan: Plan, row: int) -> tuple[dict[str, Any], int]:
    """Another example for a bad one, as its own seed of this round makes it."""
    tried = order.stand_ins(plan.seed_B2[row], self.source.num_examples)
    for index in itertools.islice(tried, _MAX_TRIES):
      bad = self._lacks_code(plan.round_B[row], index)
      if not bad:
        example, bad = self._try(index, plan.round_B[row])
      if not bad:
        return example, index
      self._warn(index, bad)
    raise self._all_bad(bad)

  @functools.cached_property
  def blank(self) -> dict[str, Any]:
    """Zeros in the shape of the first example that is good."""
    for index in range(min(_MAX_TRIES, self.source.num_examples)):
      example, bad = self._try(index, 0)
      if not bad:
        return tf.nest.map_structure(np.zeros_like, example)
    raise self._all_bad(bad)

  def _try(self, index: int, round_: int) -> tuple[dict[str, Any], str]:
    """An example outside the stream, or why it cannot be had."""
    seed_2 = example_seeds(self.seed, [round_], [index])[0]
    try:
      raw = tf.constant(self.source.read([index])[0])
      out = self.example(raw, tf.constant(seed_2), tf.constant(index),
                         tf.constant(True))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told.
      return {}, builder.first_line(error)
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), out), ""

  def _warn(self, index: int, bad: str) -> None:
    if index in self.warned or len(self.warned) >= _MAX_WARNINGS:
      return
    self.warned.add(index)
    end = ("; further ones are only counted"
           if len(self.warned) == _MAX_WARNINGS else "")
    logging.getLogger("uvim").warning(
        "%s: skipped example %d: %s%s", self.where, index, bad, end)

  def _all_bad(self, bad: str) -> ConfigError:
    return ConfigError(
        f"{self.where}: no good example among {_MAX_TRIES} that were tried in "
        f"{self.pp!r}; the last one: {bad}")

  def _lacks_code(self, round_: int, index: int) -> str:
    if self.codes_RNL is None or self.codes_RNL[round_, index, 0] >= 0:
      return ""
    return "the code cache has none for it; it was bad when that was written"

  def _codes(self, plan: Plan) -> np.ndarray:
    """The oracle's codes of a batch: int32 [B, L]."""
    for round_, index in zip(plan.round_B, plan.index_B, strict=True):
      if bad := self._lacks_code(round_, index):
        raise ConfigError(f"{self.where}: code of example {index}: {bad}. Set "
                          "config.on_bad_example='skip' as then.")
    return self.codes_RNL[plan.round_B, plan.index_B].astype(np.int32)

  def explain(self, step: int, error: Exception) -> Exception:
    """Finds the example that broke a step by running them one by one."""
    shapes: dict[str, tuple[Any, ...]] = {}
    plan = self.plan(step)
    for row, index in enumerate(plan.index_B.tolist()):
      name = f"example {index}"
      try:
        raw = tf.constant(self.source.read([index])[0])
        image_id = int(self.source.parse(raw, index)["image/id"])
        name = f"example {index} (image/id {image_id})"
        out = self.example(raw, tf.constant(plan.seed_B2[row]),
                           tf.constant(index), tf.constant(True))
      except Exception as cause:  # noqa: BLE001 - whatever it is, name it.
        if self.skips:
          continue
        return ConfigError(
            f"{self.where}: {name} fails in {self.pp!r}: "
            f"{builder.first_line(cause)}")
      for key, value in tf.nest.map_structure(tf.shape, out).items():
        shape = str(tf.nest.map_structure(lambda t: t.numpy().tolist(), value))
        if shapes.setdefault(key, (shape, name))[0] != shape:
          return ConfigError(
              f"{self.where}: {key!r} cannot be batched: {shapes[key][1]} has "
              f"shape {shapes[key][0]}, {name} {shape}. Resize it, or leave it "
              f"out with keep(...), in {self.pp!r}.")
    return error


def train_batches(source: Source, pp: str | Preprocess, *, batch_size: int,
                  seed: int, start_step: int = 0, process_index: int = 0,
                  process_count: int = 1, shuffle: bool = True,
                  pp_modules: Any = None, num_threads: int | None = None,
                  on_bad_example: str = "error",
                  codes_per_image: int | None = None,
                  codes: np.ndarray | None = None) -> Iterator[Batch]:
  """Endless training batches from `start_step` on; batch = f(seed, step).

  Args:
    source: what to read.
    pp: preprocessing string, or a callable(data, seed int64 [2]) → data.
    batch_size: global; this process gets rows
      [index, index + 1) * batch_size / count of it.
    seed: of the order and of the augmentations.
    start_step: where a resumed run goes on.
    process_index: this host.
    process_count: number of hosts.
    shuffle: False reads in the order of the files.
    pp_modules: names of op modules, see pp.builder.
    num_threads: for preprocessing; None means the cores at hand, at most 8.
    on_bad_example: what becomes of an example that cannot be read or
      preprocessed: 'error' names it; with 'skip' another one takes its place,
      drawn by (seed, epoch, index), so that the batch stays f(seed, step).
    codes_per_image: after so many epochs the augmentations repeat.
    codes: int [R, N, L], the oracle's codes for each of `codes_per_image` = R
      augmentations; −1 marks an example that was bad.

  Returns:
    An iterator of dicts: what the string keeps, plus 'image/id' int64 [B];
    with 'skip', '_skipped' bool [B], True for an example in another's place;
    with `codes`, 'code' int32 [B, L], and neither 'labels' nor 'image_ctx'.

  Raises:
    ConfigError: for a bad string or batch size, codes of another data set,
      and, named by its id, for an example that cannot be preprocessed or
      batched.
  """
  rows = order.host_rows(batch_size, process_index, process_count)
  _check_codes(codes, codes_per_image, source)
  plan = functools.partial(
      plan_train, num_examples=source.num_examples, batch_size=batch_size,
      seed=seed, shuffle=shuffle, num_rounds=codes_per_image, rows=rows)
  reader = _Reader(source, pp, modules=pp_modules, plan=plan, seed=seed,
                   num_threads=num_threads, evaluates=False,
                   on_bad_example=on_bad_example, codes=codes)
  steps = range(start_step, np.iinfo(np.int64).max)
  dataset = reader.dataset(steps, rows.stop - rows.start)
  return reader.batches(dataset, steps)


def _check_codes(codes: np.ndarray | None, codes_per_image: int | None,
                 source: Source) -> None:
  want = codes_per_image, source.num_examples
  if codes is not None and codes.shape[:2] != want:
    raise ConfigError(
        f"code_cache: holds codes of {codes.shape[1]} examples, "
        f"{codes.shape[0]} of each; {source.dataset} {source.split} has "
        f"{source.num_examples} and codes_per_image is {codes_per_image}.")


def eval_batches(source: Source, pp: str | Preprocess, *, batch_size: int,
                 seed: int = 0, process_index: int = 0, process_count: int = 1,
                 pp_modules: Any = None, num_threads: int | None = None,
                 on_bad_example: str = "error"
                 ) -> tuple[int, Callable[[], Iterator[Batch]]]:
  """One pass over the split in order, as often as it is asked for.

  Arguments as in `train_batches`; with on_bad_example='skip' a bad example is
  zeros, False in '_mask' and True in '_skipped' bool [B].

  Returns:
    num_batches, and a function that starts a pass: dicts with '_mask' bool [B]
    (False for the padding of the last batch) and 'image/id' int64 [B].
  """
  rows = order.host_rows(batch_size, process_index, process_count)
  plan = functools.partial(
      plan_eval, num_examples=source.num_examples, batch_size=batch_size,
      seed=seed, rows=rows)
  reader = _Reader(source, pp, modules=pp_modules, plan=plan, seed=seed,
                   num_threads=num_threads, evaluates=True,
                   on_bad_example=on_bad_example)
  steps = range(-(-source.num_examples // batch_size))
  dataset = reader.dataset(steps, rows.stop - rows.start)
  return len(steps), functools.partial(reader.batches, dataset, steps)
