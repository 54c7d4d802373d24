"""Batches of a TFDS data set as a pure function of (seed, step).

  plan        which examples a step reads (pp.order, numpy)
  read        their serialised records (pp.sources; one Python call a step)
  parse and   one example at a time (pp.examples), in a bounded number of
  preprocess  threads of tf.data that keep the order
  batch       stacked, as numpy arrays

Nothing here has a state to save: opening at step 10**6 costs what opening at
step 0 does, and any number of processes reads the same global batch.

Dimensions: B examples of a batch on this process.
"""

import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pp import bad_examples, batches, builder, order, sources
from pp.bad_examples import BadExamples
from pp.batches import Batch, Pass
from pp.cached_arrays import CachedArrays, Stored, open_cached
from pp.examples import BAD_RECORD, Examples
from pp.order import Plan
from pp.sources import Source

Preprocess = Callable[[dict[str, Any], tf.Tensor], dict[str, Any]]

_MAX_THREADS = 8


def make_preprocess(pp: str | Preprocess,
                    modules: Iterable[str] | None = None) -> Preprocess:
  """The function of a preprocessing string; a function is returned as it is.

  The paper's evaluation strings start after decoding: 'decode' is put in front
  of a string that names no decode op. The string itself is the function's
  `string`.

  Raises:
    ConfigError: a mistake in the string.
  """
  if callable(pp):
    return pp
  preprocess = builder.build(pp, modules)
  if any(step.name.startswith("decode") for step in preprocess.steps):
    return preprocess
  # Two functions instead of a longer string: "op 3" of a message must be the
  # third op of the string as it was written.
  decode = builder.build("decode")

  def decode_first(data, seed):
    return preprocess(decode(data, seed), seed)

  decode_first.string = pp
  decode_first.steps = [*decode.steps, *preprocess.steps]
  return decode_first


@dataclasses.dataclass(frozen=True)
class _Stream:
  """The steps from a plan to batches.

  Attributes:
    examples: makes an example of a record.
    plan_of: step → Plan.
    batch_size: of this process.
    num_threads: for preprocessing; None: `_default_threads`.
    bad: replaces bad examples; None: a bad example is an error.
    cached: what caches add to the batches; None: nothing.
    has_padding: whether batches tell by '_mask' what is padding.
  """
  examples: Examples
  plan_of: Callable[[int], Plan]
  batch_size: int
  num_threads: int | None
  bad: BadExamples | None
  cached: CachedArrays | None
  has_padding: bool

  def open(self, steps: range) -> tf.data.Dataset:
    """The batches of consecutive steps, as tf.data makes them.

    Where bad examples are replaced it gives single examples: in a batch, one
    that fails would spoil the others. The ops are traced here, so that
    mistakes in them show.
    """
    # Without this, autograph wraps our errors in text of its own. No op needs
    # autograph: they use tf.cond.
    plain = tf.autograph.experimental.do_not_convert
    num_threads = self.num_threads or _default_threads()
    # The data set is nothing but step numbers. All else follows from them.
    data = tf.data.Dataset.range(steps.start, steps.stop)
    # One step is read ahead, while the examples of another are made.
    data = data.map(plain(self._read_step)).prefetch(1)
    # Single examples, so that no thread waits for the end of a batch.
    # `deterministic` keeps their order, which the plans rely on.
    data = data.unbatch().map(
        plain(self.examples.from_record), num_parallel_calls=num_threads,
        deterministic=True)
    if self.bad is None:
      data = data.batch(self.batch_size, drop_remainder=True).prefetch(1)
    else:
      data = data.prefetch(self.batch_size)
    options = tf.data.Options()
    # The numbers above are final, so tf.data need not search for them. The
    # examples are made in parallel already: an op gets one thread.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = num_threads
    options.threading.max_intra_op_parallelism = 1
    return data.with_options(options)

  def _read_step(self, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """`_read_records` as an op, with the shapes that TensorFlow cannot know."""
    raw_B, seed_B2, index_B, mask_B = tf.numpy_function(
        self._read_records, [step], (tf.string, tf.int64, tf.int64, tf.bool))
    raw_B.set_shape((self.batch_size,))
    seed_B2.set_shape((self.batch_size, 2))
    index_B.set_shape((self.batch_size,))
    mask_B.set_shape((self.batch_size,))
    return raw_B, seed_B2, index_B, mask_B

  def _read_records(self, step: np.ndarray) -> tuple[np.ndarray, ...]:
    """Records of a step, and seeds, numbers and mask of its examples."""
    plan = self.plan_of(int(step))
    records = self.examples.read(plan.index_B.tolist())
    # As objects, because an array of bytes would cut zeros off their ends.
    raw_B = np.array(records, object)
    return raw_B, plan.seed_B2, plan.index_B, plan.mask_B

  def start(self, data: tf.data.Dataset, steps: range) -> Iterator[Batch]:
    """Numpy batches of what `open` gave for the same steps.

    Raises:
      ConfigError: while iterating, a bad example.
    """
    # tf.data's threads call Python to read ahead. If such an iterator is left
    # halfway and lives until the interpreter ends, they wait for ever for
    # Python's lock. So only this list holds it (no frame that a traceback
    # keeps does), and it is emptied when the batches are dropped, or at exit.
    holder = [data.as_numpy_iterator()]
    stream = self._batches(holder, steps)
    weakref.finalize(stream, holder.clear)
    return stream

  def _batches(self, holder: list[Iterator], steps: range) -> Iterator[Batch]:
    """The generator behind `start`."""
    for step in steps:
      # Computed again here: tf.data gives the batch, and the plan says which
      # examples are in it.
      plan = self.plan_of(step)
      if self.bad is None:
        batch = self._next_batch(holder, plan)
      else:
        batch, plan = self._next_good_batch(holder, plan)
      if self.cached is not None:
        # After a replacement, by the numbers of the stand-ins.
        batch |= self.cached.of_plan(plan)
      if not self.has_padding:
        # Only an evaluation has padding.
        del batch["_mask"]
      yield batch

  def _next_batch(self, holder: list[Iterator], plan: Plan) -> Batch:
    """The next batch; a ConfigError names an example that fails."""
    try:
      return next(holder[0])
    except BAD_RECORD as error:
      raise bad_examples.explain(
          error, plan, self.examples, skips=False) from error

  def _next_good_batch(self, holder: list[Iterator], plan: Plan
                       ) -> tuple[Batch, Plan]:
    """A batch without bad examples, and the plan of what is in it.

    '_skipped' bool [B] is True where a bad example was replaced.
    """
    rows = []
    index_B = plan.index_B.copy()
    skipped_B = np.zeros(len(index_B), bool)
    for row, index in enumerate(plan.index_B.tolist()):
      try:
        example = next(holder[0])
        reason = self.bad.why_not_cached(plan.augmentation_B[row], index)
      except BAD_RECORD as error:
        reason = self.examples.why_unreadable(index)
        reason = reason or builder.first_line(error)
      if reason:
        # Caches are read by the number of the stand-in, so the plan changes.
        example, index_B[row] = self.bad.replace(plan, row, reason)
        # Padding repeats an example that is counted in its own place.
        skipped_B[row] = plan.mask_B[row]
      rows.append(example)
    try:
      batch = tf.nest.map_structure(lambda *parts: np.stack(parts), *rows)
    except ValueError as error:
      raise bad_examples.explain(
          error, plan, self.examples, skips=True) from error
    batch.pop("_read", None)
    batch["_skipped"] = skipped_B
    return batch, plan._replace(index_B=index_B)


def _default_threads() -> int:
  """A thread for each core that this process may use, up to a limit."""
  if hasattr(os, "sched_getaffinity"):
    # A scheduler may grant fewer cores than the machine has.
    num_cores = len(os.sched_getaffinity(0))
  else:
    num_cores = os.cpu_count() or 1
  return min(_MAX_THREADS, num_cores)


class TfdsSplit:
  """A split of a TFDS data set; implements pp.splits.Split.

  Attributes:
    source: the records.
    dataset, split, num_examples, categories, folder: see pp.splits.Split.
  """

  def __init__(self, source: Source):
    """Wraps what pp.sources.make_source opened."""
    self.source = source
    self.dataset = source.dataset
    self.split = source.split
    self.num_examples = source.num_examples
    self.categories = source.categories
    self.folder = source.folder

  def fingerprint(self, pp: str | None = None) -> dict[str, Any]:
    """What tells these examples from others; see pp.splits.Split."""
    del pp  # The ops run when a batch is made.
    return self.source.fingerprint()

  def example(self, index: int) -> dict[str, Any]:
    """The raw example of that number; see pp.splits.Split."""
    return self.source.example(index)

  def make_preprocess(self, pp: str, modules: Iterable[str] | None = None
                      ) -> Preprocess:
    """The function of a preprocessing string; see pp.splits.Split."""
    return make_preprocess(pp, modules)

  def train_batches(
      self,
      preprocess: str | Preprocess,
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
      num_threads: int | None = None,
  ) -> Iterator[Batch]:
    """Endless training batches; see pp.splits.Split for what is not here.

    `num_threads` is for preprocessing; None: the cores at hand, at most 8.
    """
    rows = order.process_rows(batch_size, process_index, process_count)
    skips = batches.skips(on_bad_example)
    cached_arrays = open_cached(
        cached, codes_per_image, num_examples=self.num_examples,
        where=f"{self.dataset} {self.split}")
    plan_of = functools.partial(
        order.plan_train, num_examples=self.num_examples,
        batch_size=batch_size, seed=seed, shuffle=shuffle,
        num_augmentations=codes_per_image, rows=rows)
    examples = Examples(
        self.source, make_preprocess(preprocess), unused=unused)
    bad = None
    if skips:
      bad = BadExamples(
          examples, seed=seed, blanks=False, cached=cached_arrays)
    stream = _Stream(examples, plan_of, batch_size=rows.stop - rows.start,
                     num_threads=num_threads, bad=bad, cached=cached_arrays,
                     has_padding=False)
    # As good as endless: tf.data counts in int64.
    steps = range(start_step, np.iinfo(np.int64).max)
    return stream.start(stream.open(steps), steps)

  def eval_batches(
      self,
      preprocess: str | Preprocess,
      *,
      batch_size: int,
      seed: int = 0,
      process_index: int = 0,
      process_count: int = 1,
      on_bad_example: str = "error",
      cached: Mapping[str, Stored] | None = None,
      num_threads: int | None = None,
  ) -> Pass:
    """Batches of the whole split in its order; see pp.splits.Split."""
    rows = order.process_rows(batch_size, process_index, process_count)
    skips = batches.skips(on_bad_example)
    cached_arrays = open_cached(
        cached, 1, num_examples=self.num_examples,
        where=f"{self.dataset} {self.split}")
    plan_of = functools.partial(
        order.plan_eval, num_examples=self.num_examples,
        batch_size=batch_size, seed=seed, rows=rows)
    # Evaluators read the truth on their own. An example whose truth is broken
    # must count as bad here too, though no op may look at it.
    examples = Examples(
        self.source, make_preprocess(preprocess), reads_all=skips)
    bad = None
    if skips:
      bad = BadExamples(
          examples, seed=seed, blanks=True, cached=cached_arrays)
    stream = _Stream(examples, plan_of, batch_size=rows.stop - rows.start,
                     num_threads=num_threads, bad=bad, cached=cached_arrays,
                     has_padding=True)
    steps = range(batches.num_batches(self.num_examples, batch_size))
    data = stream.open(steps)
    return Pass(len(steps), functools.partial(stream.start, data, steps))


def open_tfds_split(dataset: str, split: str,
                    data_dir: str | os.PathLike | None = None) -> TfdsSplit:
  """Opens a split of a TFDS data set; see pp.sources.make_source."""
  return TfdsSplit(sources.make_source(dataset, split, data_dir))
