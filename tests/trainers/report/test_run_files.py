"""Files of a workdir that are damaged: left out, named, never an error."""

import json
import logging

import numpy as np
import pytest

from tests.trainers.report import runs
from tools import report
from trainers.report import run_files

SIDE_FILES = ("config.json", "sessions.json", "code_usage.json",
              "metrics.jsonl")
DAMAGE = {
    "empty": b"",
    "cut": b'{"step": 1, "a',
    "null": b"null",
    "a number": b"3",
    "a list of nothing useful": b"[1, null, {}]",
    "an object of nothing useful": b'{"step": {}, "evals": {"a": 1}}',
    "a zero byte": b'{"step": 1}\0',
    "no UTF-8": b'{"step": 1, "n\xff": 2}',
    "nested too deep": b"[" * 100_000,
    "a folder": None,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_damaged_file_ends_neither_report_nor_run(
    tmp_path, name, damage, caplog, capsys):
  runs.record_run(tmp_path)
  path = tmp_path / name
  path.unlink()
  content = DAMAGE[damage]
  if content is None:
    path.mkdir()
  else:
    path.write_bytes(content)
  caplog.set_level(logging.WARNING)
  assert report.main([str(tmp_path)]) == 0
  assert (tmp_path / "report.html").exists()
  if content is None and name == "metrics.jsonl":
    return  # Nothing can be recorded where a folder is in the way.
  writer = runs.make_recorder(tmp_path, start_step=300, num_lines=40)
  runs.evaluate(writer, 300)
  writer.close()
  assert run_files.read_lines(tmp_path).num_damaged == 0
  assert "Traceback" not in capsys.readouterr().err


def test_damaged_lines_are_counted_and_set_aside(tmp_path, caplog):
  lines = [b'{"step": 1, "a": 1.0}', b'{"step": 2, "a"', b'[3]', b'{"a": 4}',
           b'{"step": "5"}', b'{"step": 6, "a": "six"}', b'\xff\0',
           b'{"step": 7, "a": 7.0}', b'{"step": 8, "a": 8.']
  content = b"\n".join(lines)
  (tmp_path / "metrics.jsonl").write_bytes(content)
  caplog.set_level(logging.WARNING)
  runs.make_recorder(tmp_path, start_step=7).close()
  assert "6 damaged line(s)" in caplog.text
  left = run_files.read_lines(tmp_path)
  assert [line.step for line in left.sound] == [1, 7]
  assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == content


def test_a_run_says_which_part_of_its_metrics_is_gone(tmp_path, capsys):
  runs.record_run(tmp_path)
  writer = runs.make_recorder(tmp_path, start_step=300)
  num_lines = writer.sync()
  writer.close()
  path = tmp_path / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  assert num_lines == len(lines)
  capsys.readouterr()
  runs.make_recorder(tmp_path, start_step=300, num_lines=num_lines).close()
  assert "lines that were there" not in capsys.readouterr().err
  path.write_text("".join(lines[len(lines) // 2:]))
  runs.make_recorder(tmp_path, start_step=300, num_lines=num_lines).close()
  num_left = num_lines - num_lines // 2
  message = f"has {num_left} of the {num_lines} lines that were there"
  assert message in capsys.readouterr().err


def test_sessions_that_cannot_be_read_are_kept_aside(tmp_path):
  (tmp_path / "sessions.json").write_text('[{"started": "now"')
  runs.make_recorder(tmp_path).close()
  aside = tmp_path / "sessions.json.damaged"
  assert aside.read_text() == '[{"started": "now"'
  assert len(json.loads((tmp_path / "sessions.json").read_text())) == 1


@pytest.mark.parametrize("num_points", (1, 3999, 4000, 4001, 4002, 30_001))
def test_a_long_curve_keeps_first_and_newest_point(num_points):
  history = run_files.History()
  for step in range(num_points):
    history.add(run_files.Line(step, {"a": float(step)}, None))
  points = history.metrics["a"]
  assert len(points) <= run_files.MAX_POINTS + 1
  steps = [step for step, _ in points]
  assert steps[0] == 0
  assert steps[-1] == num_points - 1
  assert len(set(np.diff(steps[:-1]))) <= 1


def test_the_page_of_a_running_run_is_that_of_its_files(tmp_path):
  runs.record_run(tmp_path)
  from_memory = (tmp_path / "report.html").read_bytes()
  assert report.main([str(tmp_path)]) == 0
  assert (tmp_path / "report.html").read_bytes() == from_memory
