"""SIGKILL at random moments; tools.drill itself compares, bit for bit."""

import pathlib
import subprocess
import sys

import numpy as np

from tools.stress import drill
from uvim.store import checkpoint

ROOT = pathlib.Path(__file__).parents[3]


def test_runs_that_are_killed_end_as_if_they_were_not():
  """BEHAVIOURS 37, at full strength."""
  done = subprocess.run(
      [sys.executable, "-m", "tools.drill", "--kills", "1", "--stages", "1",
       "--steps", "6"], cwd=ROOT, capture_output=True, text=True, timeout=500)
  assert done.returncode == 0, done.stdout + done.stderr
  assert "kills survived: 1 " in done.stdout
  assert "equal the undisturbed ones bit for bit" in done.stdout


def test_a_single_bit_or_line_is_a_difference(tmp_path):
  one = np.float32(1)
  next_to_one = np.nextafter(one, np.float32(2))
  for name, value in (("a", one), ("b", next_to_one)):
    folder = tmp_path / name
    with checkpoint.Checkpointer(folder) as checkpoints:
      checkpoints.save(4, {"x": np.full(3, value, "float32")}, {})
    (folder / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {value}}}\n')
  assert not drill.differences(tmp_path / "a", tmp_path / "a")
  assert drill.differences(tmp_path / "b", tmp_path / "a") == [
      "['x']", "metrics.jsonl, line 1"]


def test_an_existing_workdir_is_refused(tmp_path, capsys):
  assert drill.main(["--workdir", str(tmp_path)]) == 2
  assert "exists already" in capsys.readouterr().err
