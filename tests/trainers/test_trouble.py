"""Evaluators that fail: the run goes on, and says so.

The model is one that compiles in no time: what fails here is not its fault.
"""

import errno
import json
import os
import signal
import types

import jax
import numpy as np
import pytest

import evaluators
from configs import vqvae_rooms_panoptic
from evaluators import mean
from tests.test_seams import MeanColorFamily
from trainers import evaluation, families, loop, preemption, scoring, trouble
from trainers.report.recorder import Recorder
from uvim.cli import app
from uvim.config import resolve
from uvim.learn import sharding
from uvim.registry import ConfigError

HERE = "tests.trainers.test_trouble"


class Fails(mean.Mean):
  """Raises what its option names, at the third example."""

  def __init__(self, split, *, error: str = ""):
    super().__init__(split)
    self._error = error

  def update(self, state, prediction, truth):
    if state.num_examples == 2:
      if self._error == "config":
        raise ConfigError("no pixel to score")
      if self._error == "fault":
        return state.no_such_attribute
      if self._error == "memory":
        raise MemoryError
      if self._error == "disk":
        raise OSError(errno.ENOSPC, "full")
      if self._error == "interrupt":
        raise KeyboardInterrupt
    return super().update(state, prediction, truth)


@pytest.fixture(scope="module", autouse=True)
def fails():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(evaluators.EVALUATORS, "fails", f"{HERE}.Fails")
    patch.setitem(families.FAMILIES, "mean_color", MeanColorFamily)
    yield


def make_config(data_dir, error, steps=2, eval_steps=2):
  """Evaluators `broken` and, after it, `sound`."""
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.unlock()
  config.kind = "mean_color"
  # TensorFlow traces few ops.
  config.pp_train = 'decode|resize(48)|value_range(-1, 1)|keep("image")'
  config.pp_eval = config.pp_train
  config.data_dir = str(data_dir)
  config.total_steps = config.checkpoint_steps = steps
  config.log_training_steps = 1
  config.mesh = (("data", 1),)
  config.val_split = None
  config.evals = [("broken", "fails"), ("sound", "mean")]
  del config.oracle_code, config.zero_code
  block = dict(split="validation[:8]", pp=config.pp_eval, pred="loss",
               log_steps=eval_steps)
  config.broken = dict(block, options=dict(error=error))
  config.sound = block
  return resolve(config)


def read_lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_goes_on_without_an_evaluator(rooms_tiny_dir, tmp_path, capsys):
  config = make_config(rooms_tiny_dir, "config")
  metrics = loop.train(config, tmp_path)
  assert np.isfinite(metrics["sound/loss"])
  broken, sound = read_lines(tmp_path)[-2:]
  assert broken == {"step": 2, "failed/broken": 1.0, "settings": {
      "error": "config", "failed": "no pixel to score"}}
  assert sound["sound/loss"] == metrics["sound/loss"]
  assert (tmp_path / "checkpoints" / "2").is_dir()
  last_line = capsys.readouterr().err.splitlines()[-1]
  assert last_line == ("The run is complete, but broken could not score at "
                       "step 2: no pixel to score")
  # It was scored as well as it can be: a restart does not try again.
  before = read_lines(tmp_path)
  loop.train(config, tmp_path)
  assert read_lines(tmp_path) == before

  # Of a checkpoint, too, the others are scored.
  found = scoring.score(str(tmp_path), config)
  assert [x["problem"] for x in found] == ["no pixel to score", ""]
  assert np.isfinite(found[1]["metrics"]["sound/loss"])


class Killed(BaseException):
  pass


@pytest.fixture(scope="module")
def whole(rooms_tiny_dir, tmp_path_factory):
  """(a config that scores after each of two steps, what its run reports)."""
  config = make_config(rooms_tiny_dir, "", eval_steps=1)
  workdir = tmp_path_factory.mktemp("whole")
  loop.train(config, workdir)
  return config, read_lines(workdir)


def test_the_step_is_saved_before_it_is_scored(whole, tmp_path):
  """A kill after the first of two scores: both are there once in the end."""
  config, lines = whole

  class Kills(Recorder):
    def scalars(self, step, values, settings=None):
      super().scalars(step, values, settings)
      if settings is not None and step == 2:
        raise Killed

  with pytest.raises(Killed):
    loop.train(config, tmp_path / "killed", make_recorder=Kills)
  assert (tmp_path / "killed" / "checkpoints" / "2").is_dir()
  loop.train(config, tmp_path / "killed")
  assert read_lines(tmp_path / "killed") == lines


def test_a_run_asked_to_stop_between_two_scores(whole, tmp_path, capsys):
  """At a step that nothing else saves: each score is there once in the end."""
  config, lines = whole

  class Asks(Recorder):
    def scalars(self, step, values, settings=None):
      super().scalars(step, values, settings)
      if settings is not None:
        os.kill(os.getpid(), signal.SIGTERM)

  stopped = tmp_path / "stopped"
  with pytest.raises(preemption.Preempted, match="after step 1 of 2"):
    loop.train(config, stopped, make_recorder=Asks)
  assert "broken/loss" in read_lines(stopped)[-1]
  capsys.readouterr()
  loop.train(config, stopped)
  # The score that is made again does not count as a line that was lost.
  assert "lines that were there" not in capsys.readouterr().err
  assert read_lines(stopped) == lines


def make_evaluation(error, predict=None):
  batches = [{"x": np.arange(8.0), "image/id": np.arange(8) + 8 * i}
             for i in range(3)]
  split = types.SimpleNamespace(num_examples=24)
  return evaluation.Evaluation(
      config=types.SimpleNamespace(batch_size=8),
      evaluator=Fails(split, error=error), settings={},
      predict=jax.jit(predict or (lambda variables, batch: {"x": batch["x"]})),
      start_batches=lambda: iter(batches), mesh=sharding.make_mesh(
          (("data", -1),)))


def test_a_fault_of_an_evaluator_names_its_place():
  scores = make_evaluation("fault").run({})
  assert scores.metrics == {}
  assert scores.problem.startswith("AttributeError: 'Totals' object has no")
  assert "(test_trouble.py, line " in scores.problem


@pytest.mark.parametrize("error, kind", [
    ("memory", MemoryError), ("disk", OSError),
    ("interrupt", KeyboardInterrupt)])
def test_what_concerns_the_whole_run_ends_it(error, kind):
  with pytest.raises(kind):
    make_evaluation(error).run({})


def test_a_score_that_is_no_number_is_left_out():
  scores = make_evaluation("", lambda variables, batch: {
      "x": batch["x"], "y": batch["x"] / 0}).run({})
  assert scores.metrics == {"x": 3.5}
  assert scores.problem == "y is nan"


def test_batches_that_cannot_be_read():
  def broken():
    yield {"x": np.arange(8.0)}
    raise ConfigError("example 9 is damaged")

  made = make_evaluation("")
  made = evaluation.dataclasses.replace(made, start_batches=broken)
  assert made.run({}).problem == "example 9 is damaged"


def test_which_errors_end_a_run():
  assert trouble.ends_run(app.Stop("asked to stop"))
  assert trouble.ends_run(OSError(errno.EDQUOT, "quota"))
  assert not trouble.ends_run(OSError(errno.EACCES, "no permission"))
  assert not trouble.ends_run(ConfigError("no pixel"))
