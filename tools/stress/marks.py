"""What a run of the drill tells the process that kills it: phase and step."""

import mmap
import pathlib
import struct

EVAL_STEPS = 4  # The period of evaluations.

# Where a run can be.
START_UP = "start-up"
STEP = "step"
EVALUATION = "evaluation"
WRITING = "checkpoint write"
# The first three, as the run itself marks them.
MARKED_PHASES = (START_UP, STEP, EVALUATION)


class Marks:
  """A small file that two processes share: the phase and step of a run."""

  _LAYOUT = struct.Struct("II")  # Index of the phase, and the step.

  def __init__(self, path: pathlib.Path):
    """Opens a file that `reset` has made."""
    self._path = path
    with open(path, "r+b") as file:
      self._shared = mmap.mmap(file.fileno(), self._LAYOUT.size)

  @classmethod
  def reset(cls, path: pathlib.Path) -> None:
    """Marks the beginning of a run."""
    path.write_bytes(cls._LAYOUT.pack(MARKED_PHASES.index(START_UP), 0))

  def write(self, phase: str, step: int) -> None:
    """Marks a phase, one of MARKED_PHASES."""
    self._shared[:] = self._LAYOUT.pack(MARKED_PHASES.index(phase), step)

  @classmethod
  def read(cls, path: pathlib.Path) -> tuple[str, int]:
    """(phase, step) of the run that marks this file."""
    index, step = cls._LAYOUT.unpack(path.read_bytes())
    return MARKED_PHASES[index], step
