"""Records what a run reports: metrics.jsonl, boards, report.html, the log.

`Recorder` writes; `NullRecorder` is for the processes that must not.

H W image pixels · Q codebook size
"""

import abc
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators.base import Details
from trainers.report import (
  alarms,
  details_file,
  examples,
  pace,
  run_files,
  run_page,
)
from uvim import files

# Outputs of a batch → uint8 images [B, H, W, 3].
Render = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class AbstractRecorder(abc.ABC):
  """What the train loop tells about its run."""

  @abc.abstractmethod
  def scalars(self, step: int, values: Mapping[str, float],
              settings: Mapping[str, Any] | None = None) -> None:
    """Records `values` (name → number) at `step`.

    Args:
      step: training steps done.
      values: name → number.
      settings: how an evaluator made them: temperature, seed, ….
    """

  @abc.abstractmethod
  def wants_progress(self, step: int) -> bool:
    """Whether `progress` should be called, even if nothing is reported."""

  @abc.abstractmethod
  def progress(self, step: int, loss: float) -> None:
    """Prints step, loss, images per second and the time left."""

  @abc.abstractmethod
  def pause(self, step: int) -> None:
    """Restarts the clock of `progress`, which counts training time only."""

  @abc.abstractmethod
  def note_pass(self, name: str, seconds: float) -> None:
    """Notes how long an evaluator took, for the time left."""

  @abc.abstractmethod
  def image(self, step: int, name: str, image_HW3: np.ndarray) -> None:
    """Records a uint8 image."""

  @abc.abstractmethod
  def details(self, step: int, name: str, details: Details,
              render: Render) -> None:
    """Keeps what stands behind the scores of an evaluator.

    Args:
      step: training steps done.
      name: of the evaluator.
      details: what it says; only the newest is kept.
      render: draws truths and predictions, see `AbstractTask.render`.
    """

  @abc.abstractmethod
  def review(self, step: int, usage_Q: np.ndarray | None = None) -> None:
    """Writes report.html, after the evaluators of a step have reported.

    Args:
      step: of the evaluation.
      usage_Q: how often each word was used since the epoch began; None or
        zeros if the model learns no code.
    """

  @abc.abstractmethod
  def sync(self) -> int:
    """Brings all that was recorded to the disk; how many lines that is.

    A checkpoint keeps the number: see `num_lines` of `Recorder`.
    """

  @abc.abstractmethod
  def say(self, text: str) -> None:
    """Prints a line."""

  @abc.abstractmethod
  def close(self) -> None:
    """Closes files and boards."""


class NullRecorder(AbstractRecorder):
  """Records nothing: for all processes but the first."""

  def scalars(self, step: int, values: Mapping[str, float],
              settings: Mapping[str, Any] | None = None) -> None:
    pass

  def wants_progress(self, step: int) -> bool:
    return False

  def progress(self, step: int, loss: float) -> None:
    pass

  def pause(self, step: int) -> None:
    pass

  def note_pass(self, name: str, seconds: float) -> None:
    pass

  def image(self, step: int, name: str, image_HW3: np.ndarray) -> None:
    pass

  def details(self, step: int, name: str, details: Details,
              render: Render) -> None:
    pass

  def review(self, step: int, usage_Q: np.ndarray | None = None) -> None:
    pass

  def sync(self) -> int:
    return 0

  def say(self, text: str) -> None:
    pass

  def close(self) -> None:
    pass


class Recorder(AbstractRecorder):
  """Writes to the workdir, to TensorBoard, to W&B if asked, and to stderr.

  `metrics.jsonl` has one object per report: {"step": k, "name": value, …}; an
  evaluator's has its "settings" too: temperature, seed, min_fraction, ….
  A resumed run drops the lines after the restored step, so that its file
  reads like that of a run that was never stopped.
  """

  def __init__(self, workdir: str | os.PathLike, *, start_step: int,
               total_steps: int, batch_size: int, drop_scores: bool = False,
               num_lines: int = 0, wandb: str | None = None,
               passes: Sequence[pace.Pass] = ()):
    """Opens the files of `workdir`.

    Args:
      workdir: the run's folder.
      start_step: lines after it are dropped; the run writes them again.
      total_steps: of the run.
      batch_size: global.
      drop_scores: whether the scores at `start_step` are dropped too.
      num_lines: how many lines of metrics.jsonl there were when `start_step`
        was saved; if some are gone, the log says so.
      wandb: project of Weights & Biases to report to as well.
      passes: of the evaluators, for the time left.
    """
    self.workdir = pathlib.Path(workdir)
    lines = _drop_lines_after(self.workdir, start_step, drop_scores)
    self._num_lines = len(lines)
    if self._num_lines < num_lines:
      self.say(f"{run_files.METRICS} has {self._num_lines} of the {num_lines} "
               f"lines that were there when step {start_step} was saved. "
               "Report and alarms go on without the others.")
    self._history = run_files.History()
    for line in lines:
      self._history.add(line)
    self._metrics_file = open(self.workdir / run_files.METRICS, "a")
    self._boards = _open_boards(self.workdir, start_step, wandb)
    self._alarms = alarms.of_run(self.workdir, total_steps, lines)
    run_files.note_session(self.workdir, start_step, total_steps)
    self._pace = pace.Pace(
        start_step=start_step, total_steps=total_steps, batch_size=batch_size,
        passes=passes)

  def scalars(self, step: int, values: Mapping[str, float],
              settings: Mapping[str, Any] | None = None) -> None:
    """Records `values` and `settings`, with the alarms that they raise."""
    # JSON knows no numbers of numpy or JAX.
    numbers = {name: float(value) for name, value in values.items()}
    for alarm in self._alarms.see(step, numbers):
      numbers[f"{run_files.ALARM}{alarm.name}"] = alarm.figure
      # Said once: what repeats is in the metrics, and the last line says so.
      if alarm.is_first:
        self.say(f"ALARM, {alarm.message} (docs/troubleshooting.md)")
    line = run_files.Line(step, numbers, settings)
    self._metrics_file.write(line.to_json() + "\n")
    # A run that is killed now still has this line.
    self._metrics_file.flush()
    self._num_lines += 1
    self._history.add(line)
    for name, number in numbers.items():
      for board in self._boards:
        board.add_scalar(name, number, step)

  def wants_progress(self, step: int) -> bool:
    return self._pace.is_due(step)

  def progress(self, step: int, loss: float) -> None:
    self.say(self._pace.line(step, loss))

  def pause(self, step: int) -> None:
    self._pace.pause(step)

  def note_pass(self, name: str, seconds: float) -> None:
    self._pace.note_pass(name, seconds)

  def image(self, step: int, name: str, image_HW3: np.ndarray) -> None:
    """Writes the image to the boards and to `pictures/NAME_STEP.png`."""
    from PIL import Image
    for board in self._boards:
      board.add_image(name, image_HW3, step, dataformats="HWC")
    image = Image.fromarray(image_HW3)
    # Seven digits: the order of names is that of steps.
    path = self.workdir / run_files.IMAGES / f"{name}_{step:07d}.png"
    files.replace_file(path, lambda file: image.save(file, format="PNG"))

  def details(self, step: int, name: str, details: Details,
              render: Render) -> None:
    """Writes details/NAME.json and pictures/examples_NAME_STEP.png."""
    try:
      details_file.write(self.workdir, step, name, details.content)
      if details.examples:
        drawn = examples.draw(details.examples, render)
        self.image(step, f"{details_file.EXAMPLES}{name}", drawn)
    except Exception as error:  # Reporting must never end a run.
      self.say(f"The details of {name} were not written: {error!r}")

  def review(self, step: int, usage_Q: np.ndarray | None = None) -> None:
    # Without a code, a histogram would say nothing.
    if usage_Q is not None and usage_Q.any():
      for board in self._boards:
        board.add_histogram("code/uses_per_word", usage_Q, step)
    try:
      if usage_Q is not None:
        run_files.note_usage(self.workdir, step, usage_Q)
      run_page.write_page(self.workdir, self._history)
    except Exception as error:  # Reporting must never end a run.
      path = self.workdir / run_page.PAGE
      self.say(f"{path} was not written: {error!r}")

  def sync(self) -> int:
    self._metrics_file.flush()
    # Some disks cannot; then a crash of the machine may cost lines.
    with contextlib.suppress(OSError):
      os.fsync(self._metrics_file.fileno())
    return self._num_lines

  def say(self, text: str) -> None:
    print(text, file=sys.stderr, flush=True)

  def close(self) -> None:
    """Closes files and boards. The last line repeats the alarms."""
    self._say_alarms()
    self._metrics_file.close()
    for board in self._boards:
      board.close()

  def _say_alarms(self) -> None:
    """Repeats the alarms: nobody reads a long log from its beginning."""
    found = []
    for name, points in alarms.points_of_run(self._history.metrics).items():
      step, _ = points[-1]
      found.append(f"{alarms.title_of(name)}, last at step {step}")
    if found:
      self.say(f"ALARMS of this run: {'; '.join(found)} "
               "(docs/troubleshooting.md).")


def _open_boards(workdir: pathlib.Path, start_step: int,
                 wandb: str | None) -> list[Any]:
  """TensorBoard, and Weights & Biases if a project is named."""
  from tensorboardX import SummaryWriter
  folder = str(workdir / "tensorboard")
  # TensorBoard then hides what an earlier session wrote from this step on.
  boards = [SummaryWriter(folder, purge_step=start_step)]
  if wandb:
    from trainers.report import wandb_board
    boards.append(wandb_board.Board(wandb, workdir))
  return boards


def _drop_lines_after(workdir: pathlib.Path, step: int,
                      drop_scores: bool) -> list[run_files.Line]:
  """Drops the lines of metrics.jsonl that a resumed run writes again.

  Returns:
    The lines that are left.
  """
  path = workdir / run_files.METRICS
  lines = run_files.read_lines(workdir)
  kept = []
  for line in lines.sound:
    # Only evaluators have settings.
    is_score = line.settings is not None
    is_later = line.step > step
    is_repeated = line.step == step and is_score and drop_scores
    if not is_later and not is_repeated:
      kept.append(line)
  if lines.num_damaged:
    aside = path.with_name(f"{path.name}.damaged")
    files.write_bytes(aside, path.read_bytes())
  # In one rename: a kill now loses no line.
  texts = [line.to_json() + "\n" for line in kept]
  files.write_text(path, "".join(texts))
  return kept
