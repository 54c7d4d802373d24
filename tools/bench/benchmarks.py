"""The benchmarks by name. What one needs is imported when it runs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

from tools.bench.rows import Row
from tools.bench.sizes import Size


# A function for each, so that one benchmark does not import what another needs:
# C4 takes TensorFlow, the training steps take JAX.
def _c1(size):
  from tools.bench import training_steps
  return training_steps.stage_i_step(size)


def _c2(size):
  from tools.bench import training_steps
  return training_steps.stage_ii_step(size)


def _c3(size):
  from tools.bench import decoding
  return decoding.decoding(size)


def _c4_parts(size):
  """A part for each number of segments."""
  parts = []
  for num_segments in size.segments:
    parts.append(functools.partial(_c4, "C4", size, num_segments))
  return parts


def _c4(name, size, num_segments):
  from tools.bench import preprocessing
  yield preprocessing.preprocess_segments(name, size, num_segments)


def _c5(size):
  from tools.bench import panoptic_outputs
  return panoptic_outputs.panoptic_outputs(size)


def _c6(size):
  from tools.bench import panoptic_quality
  return panoptic_quality.panoptic_quality(size)


def _c7(size):
  from tools.bench import training_steps
  return training_steps.paper_stage_i_step(size)


def _c8(size):
  from tools.bench import training_steps
  return training_steps.paper_stage_ii_step(size)


def _c9_parts(size):
  """A part for each number of images at once."""
  parts = []
  for batch_size in size.predict_batches:
    parts.append(functools.partial(_c9, size, batch_size))
  return parts


def _c9(size, batch_size):
  from tools.bench import predicting
  yield predicting.predicting(size, batch_size)


def _growth_parts(size):
  """Tokens and codebook together; then a part for each number of segments."""
  parts = [functools.partial(_growth, size)]
  for num_segments in size.growth_segments:
    parts.append(functools.partial(
        _c4, "growth segments", size, num_segments))
  return parts


def _growth(size):
  from tools.bench import growth
  return growth.growth(size)


# Makes some rows of a benchmark.
Part = Callable[[], Iterator[Row]]


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What runs under one name.

  Attributes:
    make_parts: what runs in a process of its own each. Where the memory of the
      process is measured, that is each row: a row would else reuse memory that
      the row before has freed.
    compares_memory: whether scratch memory is its result. Both sides are then
      compiled with the scheduler that saves memory.
    is_timed: whether its time matters; if not, it may share the machine.
  """
  make_parts: Callable[[Size], list[Part]]
  compares_memory: bool = False
  is_timed: bool = True


def _whole(measure: Callable[[Size], Iterator[Row]]):
  """The parts of a benchmark that runs in one process."""
  return lambda size: [functools.partial(measure, size)]


# Those that are timed run in this order; the others come last.
BENCHMARKS = {
    "C1": Benchmark(_whole(_c1)),
    "C2": Benchmark(_whole(_c2)),
    "C3": Benchmark(_whole(_c3)),
    "C4": Benchmark(_c4_parts),
    "C5": Benchmark(_whole(_c5)),
    "C6": Benchmark(_whole(_c6)),
    # These two are compiled and never run.
    "C7": Benchmark(_whole(_c7), compares_memory=True, is_timed=False),
    "C8": Benchmark(_whole(_c8), compares_memory=True, is_timed=False),
    "C9": Benchmark(_c9_parts),
    "growth": Benchmark(_growth_parts, compares_memory=True),
}
