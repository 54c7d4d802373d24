"""Where the figures of a sweep come from, and how its page says it."""

import pytest

from configs.sweeps import recipe
from tools.sweeps import page, results
from tools.sweeps.origin import Origin, origin_of
from tools.sweeps.runs import SAMPLING, Run, add_seconds
from uvim import files

COMMIT = "0bd5336e83049c25553c13006a6cfff30e796672"


def end_training(folder, name, commits, seconds):
  """A training that is done: one session for each commit."""
  run = Run(name, 1, (), folder / name, needs=None, cost=1)
  (run.workdir / "checkpoints" / "4").mkdir(parents=True)
  sessions = [{"total_steps": 4, "commit": commit} for commit in commits]
  files.write_json(run.workdir / "sessions.json", sessions)
  files.write_text(run.workdir / "metrics.jsonl", '{"step": 4, "loss": 1}\n')
  add_seconds(run, seconds)
  return run


def measurement_of(folder, training):
  return Run("sampling-a", SAMPLING, (), folder / "sampling-a",
             needs=training, cost=0)


def test_commits_and_minutes_are_those_of_the_runs_that_are_done(tmp_path):
  shared = end_training(
      tmp_path, "a", [COMMIT, COMMIT, f"{COMMIT[::-1]}-dirty"], 60)
  other = end_training(tmp_path, "b", [None], 90)
  measurement = measurement_of(tmp_path, shared)
  cells = {("one", 0): {1: shared, SAMPLING: measurement},
           ("two", 0): {1: shared},
           ("one", 1): {1: other}}
  assert origin_of(cells) == Origin(
      commits=("0bd5336", "276697e with changes", "unknown"), num_seeds=2,
      num_runs=3, num_done=2, minutes=pytest.approx(2.5))
  measurement.workdir.mkdir()
  files.write_json(measurement.measured, {"PQ": 1})
  found = origin_of(cells)
  # Nobody has timed the measurement.
  assert found.num_done == 3 and found.minutes is None
  add_seconds(measurement, 30)
  assert origin_of(cells).minutes == pytest.approx(3)


@pytest.mark.parametrize("origin,lines", [
    (Origin(("0bd5336", "unknown"), 3, 6, 6, 81.6),
     ["* Commit: 0bd5336, unknown",
      "* Seeds: 3; ours is their mean ± their standard deviation",
      "* Runs: 6 of 6 done",
      "* Minutes: 82 for all of them, one after the other"]),
    (Origin((), 1, 6, 0, None),
     ["* Commit: none yet", "* Seeds: 1, so no figure has a spread",
      "* Runs: 0 of 6 done", "* Minutes: not noted"])])
def test_the_page_says_where_its_figures_come_from(origin, lines):
  sweep = recipe.Sweep("Title", None, {}, {})
  found = results.Results("Title", ("c.py",), {}, {}, [], origin)
  text = page.page_of("name", sweep, found, command="python -m x")
  assert text.startswith("# Title\n\n    python -m x\n\n* Commit: ")
  assert "\n".join(lines) in text
