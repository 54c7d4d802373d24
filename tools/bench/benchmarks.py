"""The benchmarks by name. What one needs is imported when it runs."""

import dataclasses
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


def _c4(size):
  from tools.bench import preprocessing
  return preprocessing.preprocessing(size)


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


def _growth(size):
  from tools.bench import growth
  return growth.growth(size)


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """What runs under one name.

  Attributes:
    measure: makes the rows.
    on_gpu: whether it is for a machine with a GPU and without TensorFlow.
    compares_memory: whether scratch memory is its result. Both sides are then
      compiled with the scheduler that saves memory.
    is_timed: whether its time matters; if not, it may share the machine.
  """
  measure: Callable[[Size], Iterator[Row]]
  on_gpu: bool = True
  compares_memory: bool = False
  is_timed: bool = True


# Those that are timed run in this order; the others come last.
BENCHMARKS = {
    "C1": Benchmark(_c1),
    "C2": Benchmark(_c2),
    "C3": Benchmark(_c3),
    "C4": Benchmark(_c4, on_gpu=False),
    "C5": Benchmark(_c5),
    "C6": Benchmark(_c6, on_gpu=False),
    # These two are compiled and never run.
    "C7": Benchmark(_c7, compares_memory=True, is_timed=False),
    "C8": Benchmark(_c8, compares_memory=True, is_timed=False),
    "growth": Benchmark(_growth, on_gpu=False, compares_memory=True),
}
