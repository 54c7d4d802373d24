"""Batches of numpy arrays as a pure function of (seed, step).

Path: order (numpy) → read (one Python call per step) → parse and preprocess
(tf.data, a bounded number of threads, order kept) → batch → numpy.
Nothing here has a state to save: opening at step 10**6 costs what opening at
step 0 does, and any number of hosts reads the same global batch.

Dimensions: B examples of a batch on this host · N examples of the split.
"""

import functools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pp.sources import Source
from uvim.registry import ConfigError

Batch = dict[str, np.ndarray]
Preprocess = Callable[[dict[str, Any], tf.Tensor], dict[str, Any]]

_WORD = (1 << 64) - 1


class Plan(NamedTuple):
  """What one host reads at one step."""
  index_B: np.ndarray  # int64, position in the split
  seed_B2: np.ndarray  # int64 [B, 2], one seed per example
  mask_B: np.ndarray   # bool, False for padding


@functools.lru_cache(maxsize=4)
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


def example_seeds(seed: int, epoch_B: np.ndarray,
                  index_B: np.ndarray) -> np.ndarray:
  """A seed for each example from (seed, epoch, index) alone: int64 [B, 2]."""
  golden = np.uint64(0x9E3779B97F4A7C15)
  state = np.full(len(index_B), seed & _WORD, np.uint64)
  for part in (epoch_B, index_B):
    state = _mix(state + golden) + np.asarray(part).astype(np.uint64)
  high = _mix(state + golden)
  return np.stack([high, _mix(high + golden)], axis=1).view(np.int64)


def plan_train(step: int, *, num_examples: int, batch_size: int, seed: int,
               shuffle: bool = True, rows: slice = slice(None)) -> Plan:
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
  return Plan(index_B, example_seeds(seed, epoch_B, index_B),
              np.ones(len(index_B), bool))


def plan_eval(step: int, *, num_examples: int, batch_size: int, seed: int,
              rows: slice = slice(None)) -> Plan:
  """What to read at an evaluation step: 0..N-1 in order, then padding.

  Padding repeats the last example: it is sure to pass the ops.
  """
  position_B = np.arange(batch_size, dtype=np.int64)[rows] + step * batch_size
  index_B = np.minimum(position_B, num_examples - 1)
  return Plan(index_B, example_seeds(seed, np.zeros_like(index_B), index_B),
              position_B < num_examples)


def _host_rows(batch_size: int, index: int, count: int) -> slice:
  """The part of a global batch that process `index` of `count` reads."""
  if batch_size < 1 or batch_size % count:
    raise ConfigError(
        f"batch_size: {batch_size} must be a positive multiple of the number "
        f"of processes, {count}.")
  local = batch_size // count
  return slice(index * local, (index + 1) * local)


def make_preprocess(pp: str | Preprocess, modules: Any = None) -> Preprocess:
  """The function of a preprocessing string; a callable is taken as it is.

  The paper's evaluation strings start after decoding: 'decode' is put in front
  where no decode op is named.
  """
  if callable(pp):
    return pp
  from pp import builder
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
               plan: Callable[[int], Plan], num_threads: int | None):
    self.source = source
    self.pp = pp
    self.plan = plan
    self.preprocess = make_preprocess(pp, modules)
    self.num_threads = num_threads or min(8, _num_cores())

  def read(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
    """Serialised examples of a step, their seeds, positions and mask."""
    plan = self.plan(int(step))
    raw_B = np.array(self.source.read(plan.index_B), object)
    return raw_B, plan.seed_B2, plan.index_B, plan.mask_B

  def example(self, raw, seed_2, index, mask) -> dict[str, Any]:
    """One example: parse, preprocess, re-attach what `keep` dropped."""
    data = self.source.parse(raw, index)
    image_id = data["image/id"]
    out = _numbers(self.preprocess(data, seed_2))
    return {**out, "image/id": image_id, "_mask": mask}

  def dataset(self, steps: range, batch_size: int) -> tf.data.Dataset:
    """Batches of consecutive steps; traces the ops, so their mistakes show."""
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
    data = data.batch(batch_size, drop_remainder=True).prefetch(1)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = self.num_threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)

  def batches(self, dataset: tf.data.Dataset, steps: range, *,
              with_mask: bool) -> Iterator[Batch]:
    """Numpy batches; a failing example is named in the error.

    An iterator that is left halfway must go before the interpreter does: its
    threads read ahead in Python, and would wait at exit, for ever, for a lock
    that is no longer given.
    """
    live = [dataset.as_numpy_iterator()]
    batches = self._batches(live, steps, with_mask)
    weakref.finalize(batches, live.clear)  # When dropped, or at exit.
    return batches

  def _batches(self, live: list[Iterator[Batch]], steps: range,
               with_mask: bool) -> Iterator[Batch]:
    for step in steps:
      try:
        batch = next(live[0])
      except tf.errors.OpError as error:
        raise self.explain(step, error) from error
      if not with_mask:
        del batch["_mask"]
      yield batch

  def explain(self, step: int, error: Exception) -> Exception:
    """Finds the example that broke a step by running them one by one."""
    shapes: dict[str, tuple[Any, ...]] = {}
    where = f"{self.source.dataset} {self.source.split}"
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
        return ConfigError(
            f"{where}: {name} fails in {self.pp!r}: {_short(cause)}")
      for key, value in tf.nest.map_structure(tf.shape, out).items():
        shape = str(tf.nest.map_structure(lambda t: t.numpy().tolist(), value))
        if shapes.setdefault(key, (shape, name))[0] != shape:
          return ConfigError(
              f"{where}: {key!r} cannot be batched: {shapes[key][1]} has "
              f"shape {shapes[key][0]}, {name} {shape}. Resize it, or leave it "
              f"out with keep(...), in {self.pp!r}.")
    return error


def _short(error: Exception) -> str:
  """The first line of an error, without TensorFlow's node names."""
  text = str(getattr(error, "message", "") or error).strip()
  text = text.replace("{{function_node", "\n").splitlines() or [""]
  line = next((part.strip() for part in text if part.strip()), "")
  return f"{type(error).__name__}: {line}"


def train_batches(source: Source, pp: str | Preprocess, *, batch_size: int,
                  seed: int, start_step: int = 0, process_index: int = 0,
                  process_count: int = 1, shuffle: bool = True,
                  pp_modules: Any = None, num_threads: int | None = None
                  ) -> Iterator[Batch]:
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

  Returns:
    An iterator of dicts: what the string keeps, plus 'image/id' int64 [B].

  Raises:
    ConfigError: for a bad string or batch size, and, named by its id, for an
      example that cannot be preprocessed or batched.
  """
  rows = _host_rows(batch_size, process_index, process_count)
  plan = functools.partial(
      plan_train, num_examples=source.num_examples, batch_size=batch_size,
      seed=seed, shuffle=shuffle, rows=rows)
  reader = _Reader(source, pp, modules=pp_modules, plan=plan,
                   num_threads=num_threads)
  steps = range(start_step, np.iinfo(np.int64).max)
  dataset = reader.dataset(steps, rows.stop - rows.start)
  return reader.batches(dataset, steps, with_mask=False)


def eval_batches(source: Source, pp: str | Preprocess, *, batch_size: int,
                 seed: int = 0, process_index: int = 0, process_count: int = 1,
                 pp_modules: Any = None, num_threads: int | None = None
                 ) -> tuple[int, Callable[[], Iterator[Batch]]]:
  """One pass over the split in order, as often as it is asked for.

  Arguments as in `train_batches`.

  Returns:
    num_batches, and a function that starts a pass: dicts with '_mask' bool [B]
    (False for the padding of the last batch) and 'image/id' int64 [B].
  """
  rows = _host_rows(batch_size, process_index, process_count)
  plan = functools.partial(
      plan_eval, num_examples=source.num_examples, batch_size=batch_size,
      seed=seed, rows=rows)
  reader = _Reader(source, pp, modules=pp_modules, plan=plan,
                   num_threads=num_threads)
  steps = range(-(-source.num_examples // batch_size))
  dataset = reader.dataset(steps, rows.stop - rows.start)
  return len(steps), functools.partial(
      reader.batches, dataset, steps, with_mask=True)
