"""Training that marks where it is, for the drill that kills it."""

import functools
import pathlib

from tools.stress.marks import EVAL_STEPS, EVALUATION, STEP, Marks
from trainers import config_file, loop
from trainers.report import recorder
from uvim.config import resolve


def train(config_path: pathlib.Path, workdir: pathlib.Path,
          marks: Marks) -> None:
  """Runs or resumes a training run, as the command of the trainer does."""
  config = resolve(config_file.load_config(str(config_path)))
  loop.train(config, workdir,
             make_recorder=functools.partial(MarkingRecorder, marks))


class MarkingRecorder(recorder.AbstractRecorder):
  """Records as any run does, and marks its phase and last reported step."""

  def __init__(self, marks: Marks, workdir: pathlib.Path, *, start_step: int,
               total_steps: int, drop_scores: bool = False, **options):
    """Arguments but `marks` as of `Recorder`. The run's start-up is over."""
    self._marks = marks
    self._total_steps = total_steps
    self._recorder = recorder.Recorder(
        workdir, start_step=start_step, total_steps=total_steps,
        drop_scores=drop_scores, **options)
    # A run that was killed in an evaluation begins with it.
    marks.write(EVALUATION if drop_scores else STEP, start_step)

  def progress(self, step, loss):
    self._recorder.progress(step, loss)
    # The loop reports the step of an evaluation right before it.
    is_due = step % EVAL_STEPS == 0 or step == self._total_steps
    self._marks.write(EVALUATION if is_due else STEP, step)

  def wants_progress(self, step):
    return self._recorder.wants_progress(step)

  def note_pass(self, name, seconds):
    self._recorder.note_pass(name, seconds)

  def details(self, step, name, details, render):
    self._recorder.details(step, name, details, render)

  def review(self, step, usage_Q=None):
    # The loop calls it at the end of an evaluation.
    self._recorder.review(step, usage_Q)
    self._marks.write(STEP, step)

  def scalars(self, step, values, settings=None):
    self._recorder.scalars(step, values, settings)

  def pause(self, step):
    self._recorder.pause(step)

  def image(self, step, name, image_HW3):
    self._recorder.image(step, name, image_HW3)

  def sync(self):
    return self._recorder.sync()

  def say(self, text):
    self._recorder.say(text)

  def close(self):
    self._recorder.close()
