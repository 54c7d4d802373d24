"""What a run writes about itself, and what a resumed one drops."""

import inspect
import json
import pathlib
import re

import numpy as np
import pytest

from tests.trainers.report import runs
from trainers.report import recorder


def read_metrics(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_alarms_stand_in_the_log_and_in_the_metrics(tmp_path, capsys):
  runs.record_run(tmp_path)
  error = capsys.readouterr().err
  steps = [line["step"] for line in read_metrics(tmp_path)
           if "alarm/repeated_word" in line]
  assert steps == [100, 200, 300]
  # Said once, whatever the metrics repeat.
  assert error.count("ALARM, repeated word: uvim/words_per_code is 1.02") == 1
  # The last line says so again: nobody reads a long log from its beginning.
  last = error.splitlines()[-1]
  assert last == ("ALARMS of this run: repeated word, last at step 300 "
                  "(docs/troubleshooting.md).")


def test_a_run_without_alarms_ends_without_such_a_line(tmp_path, capsys):
  writer = runs.make_recorder(tmp_path)
  writer.scalars(300, {"train/code/usage": 0.9})
  writer.close()
  assert "ALARM" not in capsys.readouterr().err


def test_a_resumed_run_drops_the_lines_it_writes_again(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
      '{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n'
      '{"step": 2, "b": 3.0, "settings": {}}\n{"step": 3, "a": 4.0}\n'
      '{"step": 4, "a"')
  runs.make_recorder(tmp_path, start_step=2).close()
  kept = read_metrics(tmp_path)
  assert [line["step"] for line in kept] == [1, 2, 2]
  # It stopped in the middle of its evaluators: all of them run again.
  runs.make_recorder(tmp_path, start_step=2, drop_scores=True).close()
  assert read_metrics(tmp_path) == kept[:2]


def test_lines_hold_settings_only_of_evaluators(tmp_path):
  writer = runs.make_recorder(tmp_path)
  writer.scalars(1, {"train/loss": np.float32(0.5)})
  writer.scalars(1, {"uvim/PQ": 2}, {"seed": 0})
  writer.scalars(2, {"val/loss": 1.0}, {})
  writer.close()
  assert read_metrics(tmp_path) == [
      {"step": 1, "train/loss": 0.5},
      {"step": 1, "uvim/PQ": 2.0, "settings": {"seed": 0}},
      {"step": 2, "val/loss": 1.0, "settings": {}}]


def test_a_model_without_a_code_has_a_page_too(tmp_path):
  writer = runs.make_recorder(tmp_path)
  writer.review(1)
  writer.close()
  assert (tmp_path / "report.html").exists()
  assert not (tmp_path / "code_usage.json").exists()


def test_a_page_that_cannot_be_made_does_not_end_the_run(tmp_path, capsys):
  writer = runs.make_recorder(tmp_path)
  # A folder stands in its way.
  (tmp_path / "report.html").mkdir()
  writer.review(1, np.zeros(4, np.int32))
  writer.close()
  assert "report.html was not written" in capsys.readouterr().err


def test_sessions_say_how_often_it_was_started(tmp_path):
  for start_step in (0, 40):
    runs.make_recorder(tmp_path, start_step=start_step).close()
  sessions = json.loads((tmp_path / "sessions.json").read_text())
  assert [session["step"] for session in sessions] == [0, 40]
  assert sessions[0]["versions"]["numpy"] == np.__version__


def test_a_session_names_the_commit_of_the_code(tmp_path):
  runs.make_recorder(tmp_path).close()
  session, = json.loads((tmp_path / "sessions.json").read_text())
  root = pathlib.Path(__file__).parents[3]
  if (root / ".git").exists():
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", session["commit"])
  else:
    assert session["commit"] is None


def test_progress_is_a_line_of_the_log(tmp_path, capsys):
  writer = runs.make_recorder(tmp_path, total_steps=1000)
  assert writer.wants_progress(1)
  writer.pause(400)
  writer.progress(400, 1.5)
  writer.close()
  line = capsys.readouterr().err
  assert line.startswith("step 400/1000  loss 1.5000  compiled in ")


def test_the_null_recorder_takes_the_same_calls_and_writes_nothing(
    tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  silent = recorder.NullRecorder()
  runs.evaluate(silent, 100)
  assert not silent.wants_progress(1)
  silent.progress(100, 1.0)
  silent.pause(100)
  silent.note_pass("uvim", 1.0)
  silent.say("text")
  silent.close()
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr() == ("", "")
  with pytest.raises(AttributeError):
    silent.scalar(100, {})


def test_both_recorders_have_the_same_methods():
  for name in recorder.AbstractRecorder.__abstractmethods__:
    signatures = [inspect.signature(getattr(kind, name)) for kind in (
        recorder.Recorder, recorder.NullRecorder, recorder.AbstractRecorder)]
    assert signatures[0] == signatures[1] == signatures[2], name
  public = {name for name in vars(recorder.Recorder)
            if not name.startswith("_")}
  assert public == recorder.AbstractRecorder.__abstractmethods__
