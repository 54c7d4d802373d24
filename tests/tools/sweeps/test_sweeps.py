"""Sweeps: their data, their runs, and what is made of them."""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from configs.sweeps import recipe
from tests.trainers import cli
from tools.sweeps import __main__ as sweep
from tools.sweeps import figures, jobs, page, plan, plot, results, verdicts
from tools.sweeps.runs import MEASURES, is_done, progress_of, reason_of
from trainers import config_file, main
from uvim.config import resolve
from uvim.models import make_model
from uvim.registry import ConfigError

ROOT = pathlib.Path(__file__).parents[3]
NAMES = ["bottlenecks", "colour", "depth", "depth_joint", "depth_joint_hard",
         "encoders", "fig11", "fig6", "hard_latent", "hard_residual", "lbg",
         "masking", "p2s_encoding", "p2s_loss", "p2s_scale", "p2s_schedule",
         "p2s_steps", "p2s_weight", "priors", "quantizers", "quantizers_depth",
         "readings", "rivals", "rivals_depth", "table2", "table3"]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(name, size):
  """(the sweep, its runs)."""
  data = plan.load_sweep(name, size)
  return data, plan.plan_runs(data, workdir="w", num_seeds=1)


def config_of(run):
  """The config that a training of a sweep runs with."""
  return _resolved(run.command[4], tuple(run.command[7:]))


# Many cells share a run.
@functools.cache
def _resolved(config, overrides):
  return resolve(config_file.load_config(config, overrides))


# ── The data ────────────────────────────────────────────────────────────────


def published(name, score):
  return plan.load_sweep(name, "full").scores[score].published


def test_published_figures():
  """As NUMBERS.md has them, typed anew."""
  cells = ["default", "scratch", "no_dropout", "no_oracle", "no_oracle_48",
           "no_autoregression", "no_image"]
  stage1, stage2 = (list(map(published("table2", x).get, cells))
                    for x in ("stage1", "stage2"))
  assert stage1 == [75.7, 75.7, 85.8, 19.6, 25.5, 75.7, 66.1]
  assert stage2 == [43.7, 41.4, 42.2, "N/A", "N/A", 33.3, 39.1]
  assert published("table2", "nll") == {"default": 1.3, "no_dropout": 4.2}
  assert list(published("table3", "stage2").values()) == [
      41.0, 41.4, 41.9, 43.7]
  assert published("depth", "stage1")["default"] == 0.155
  assert published("depth", "stage2")["default"] == 0.467
  assert published("depth", "stage2")["no_autoregression"] == 0.55
  assert published("colour", "stage1")["default"] == 15.59
  assert published("colour", "stage2")["default"] == 16.99
  assert published("lbg", "usage") == {"with": 99, "without": 0.78}
  assert published("lbg", "stage2") == {"with": 0.468, "without": 0.490}
  assert list(published("p2s_scale", "quality").values()) == [
      40.8, 43.9, 38.7, 21.3]
  assert list(published("p2s_loss", "quality").values()) == [41.9, 43.9]
  assert list(published("p2s_weight", "quality").values()) == [
      40.4, 43.9, 43.7, 41.3]
  assert list(published("p2s_steps", "quality").values()) == [
      47.5, 49.4, 50.3, 50.2]
  grid = plan.load_sweep("fig6", "full").grid
  assert (*grid.rows, *grid.columns) == (64, 256, 1024, 1024, 4096, 16384)


@pytest.mark.parametrize("size", ["full", "rooms"])
def test_every_cell_is_a_model_and_every_score_has_its_evaluator(size):
  assert plan.names() == NAMES
  for name in NAMES:
    data, cells = load(name, size)
    for runs in cells.values():
      for stage, run in runs.items():
        if stage not in MEASURES:
          config = config_of(run)
          make_model(config.model_name, config.model, "config.model")
    for score in data.scores.values():
      if score.stage in (1, 2) and not score.metric.startswith("train/"):
        run = next(x for x in cells.values() if score.stage in x)[score.stage]
        assert score.metric.startswith(run.prefixes), (name, score)
    for comparison in data.comparisons:
      for entry in (comparison.left, comparison.right):
        assert entry.score in data.scores
        assert entry.cell in data.cells
    for trend in data.trends:
      assert trend.score in data.scores


def test_ablations_reach_the_frozen_oracle_too():
  run = load("table2", "rooms")[1]["no_image", 0][2]
  config = config_of(run)
  assert config.oracle.model["with_decoder_ctx"] is False
  assert config.oracle.model_init == str(run.needs.workdir)
  assert config.model_init == {"base_model": ""}


def test_runs_that_are_alike_are_shared():
  data, cells = load("table2", "rooms")
  stage1 = {name: runs[1].name for (name, _), runs in cells.items()}
  assert (stage1["default"] == stage1["scratch"]
          == stage1["no_autoregression"])
  assert len(set(stage1.values())) == 5
  assert len(plan.unique_runs(cells)) == 10
  _, masking = load("masking", "rooms")
  assert {runs[2].name for runs in masking.values()} == {
      cells["default", 0][2].name}
  # Wherever the runs lie; but not those of another seed.
  moved = plan.plan_runs(data, workdir="/elsewhere", num_seeds=2)
  assert moved["default", 0][2].name == cells["default", 0][2].name
  assert moved["default", 1][1].name != cells["default", 0][1].name
  # Nor where the data lies, but those of other data.
  moved, other = (plan.plan_runs(
      data, workdir="w", num_seeds=1, data={name: "arrays:x"})
      for name in ("data_dir", "dataset"))
  assert moved["default", 0][1].name == cells["default", 0][1].name
  assert other["default", 0][2].name != cells["default", 0][2].name


def test_ways_to_draw_a_code_share_their_training():
  data, cells = load("priors", "rooms")
  runs = plan.unique_runs(cells)
  assert len(runs) == 1 + 5 + len(data.cells)  # One oracle, five priors.
  first = cells["masked_2", 0]
  second = cells["masked_36", 0]
  assert first[2] is second[2] and first["sampling"] is not second["sampling"]
  assert config_of(first[2]).model["style"] == "masked"
  command = " ".join(second["sampling"].command)
  assert "--set num_iter=36 --set choice_temperature=0.0" in command
  assert f"--checkpoint {second[2].workdir} --evaluator uvim" in command


def test_a_model_with_one_training_is_measured_after_it():
  data, cells = load("p2s_steps", "rooms")
  assert len(plan.unique_runs(cells)) == 1 + len(data.cells)
  runs = cells["steps_50_td_2", 0]
  assert set(runs) == {1, "sampling"}
  training = runs[1].command
  assert training[2] == "trainers.pix2seq_d"
  assert training[4] == "configs/pix2seq_d_rooms_panoptic.py"
  command = " ".join(runs["sampling"].command)
  assert "--set num_steps=50 --set time_difference=2.0" in command
  assert f"--checkpoint {runs[1].workdir} --evaluator steps_20" in command
  # The page names one config, and one column of overrides.
  found = results.collect(data, cells)
  text = page.page_of("p2s_steps", data, found, command="x")
  assert "`configs/pix2seq_d_rooms_panoptic.py`, with:" in text
  assert "| cell | overrides |" in text and "stage II" not in text


def test_readings_share_their_training():
  _, cells = load("readings", "rooms")
  assert len(plan.unique_runs(cells)) == 1 + 2 + 12  # One oracle, two priors.
  command = " ".join(cells["at_once_soft_mean_of_8", 0]["sampling"].command)
  assert ("--set soft_words=1.0 --set bins=mean --set temperature=1.0 "
          "--set num_samples=8 --set reduce=mean") in command
  for (name, _), runs in cells.items():
    takes_soft_inputs = "soft_inputs" in " ".join(runs["sampling"].command)
    assert takes_soft_inputs == (
        name in ("ar_soft_likeliest", "ar_soft_mean_bin"))


def test_list_needs_nothing_else(capsys):
  with pytest.raises(SystemExit) as done:
    sweep.main(["--list"])
  assert done.value.code == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == plan.names()
  assert "table2     Table 2 of the paper: " in lines[-2]


def test_unknown_names(capsys):
  with pytest.raises(ConfigError, match="'tabel2'.*'table2'"):
    plan.load_sweep("tabel2", "rooms")
  assert sweep.main(["table2", "--workdir", "w", "--size", "room"]) == 2
  assert "--size 'room'" in capsys.readouterr().err
  assert sweep.main(["table2", "--workdir", "w", "--jobs", "0"]) == 2
  assert "--jobs must be at least 1" in capsys.readouterr().err


# ── Runs that only pretend ──────────────────────────────────────────────────

FAKE = """
import json, os, pathlib, sys
argv = sys.argv
text = " ".join(argv)
if os.environ.get("FAIL", "no such run") in text:
  sys.exit("error: no luck today")
seed = int(text.partition("config.seed=")[2][:1])
workdir = pathlib.Path(argv[argv.index("--workdir") + 1])
(workdir / "checkpoints" / "10").mkdir(parents=True)
(workdir / "new").write_text(json.dumps([{"total_steps": 10}]))
os.replace(workdir / "new", workdir / "sessions.json")  # As the trainers do.
whole = "code_dropout=none" in text
with open(workdir / "metrics.jsonl", "w") as file:
  for step in (5, 10):
    line = {"step": step, "train/loss": (3 if whole else 1) + (step < 10) * 99}
    file.write(json.dumps(line) + chr(10))
  for name, value in {
      "val/loss": 2.0, "zero_code/PQ": 1.0,
      "oracle_code/PQ": 60 + 20 * whole + seed,
      "uvim/PQ": 40.0 + 9 * ("autoregressive=False" in text) + seed}.items():
    line = {"step": 10, name: value, "settings": {}}
    file.write(json.dumps(line) + chr(10))
"""


@pytest.fixture
def fake(tmp_path):
  """A function that runs a sweep of pretended runs: (exit code, commands)."""
  script = tmp_path / "fake.py"
  script.write_text(FAKE)
  commands = []

  def start(run, log, cores):
    del cores
    commands.append(run.command)
    return subprocess.Popen([sys.executable, "-S", str(script), *run.command],
                            stdout=log, stderr=log)

  outside = sweep.Outside(
      start=start, draw=lambda *args: None, poll_seconds=0.01)

  def call(name, *argv, seeds=2):
    commands.clear()
    code = sweep.main([name, "--workdir", str(tmp_path / "w"), "--size",
                       "tiny", "--seeds", str(seeds), "--jobs", "3", *argv],
                      outside)
    return code, list(commands)

  return call


def read(tmp_path, name):
  return json.loads((tmp_path / "w" / f"{name}.json").read_text())


def test_jobs_share_the_cores():
  assert jobs.shares(2, [1, 3, 5, 7, 9]) == [{1, 5, 9}, {3, 7}]
  assert jobs.shares(6, [1, 3, 5, 7, 9]) == [{1}, {3}, {5}, {7}, {9}, {1}]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"),
                    reason="skipped: this system does not deal out cores")
def test_a_process_keeps_to_its_cores(tmp_path):
  mine = os.sched_getaffinity(0)
  assert set().union(*jobs.shares(2)) == mine
  one = {max(mine)}
  code = "import os; print(os.sched_getaffinity(0))"
  run = types.SimpleNamespace(command=[sys.executable, "-S", "-c", code])
  with open(tmp_path / "log", "w") as log:
    jobs.start_process(run, log, one).wait()
  assert (tmp_path / "log").read_text().strip() == str(one)
  assert os.sched_getaffinity(0) == mine


def test_a_failed_cell_says_why_and_the_others_go_on(
    fake, tmp_path, monkeypatch):
  monkeypatch.setenv("FAIL", "config.model.with_decoder_ctx=False")
  code, commands = fake("table2")
  assert code == sweep.EXIT_FAILED
  # Stage II of the failed cell was not even tried.
  assert len(commands) == 20 - 2
  page = (tmp_path / "w/table2.md").read_text()
  assert "no image: stage1-" in page and "error: no luck today" in page
  row = next(x for x in page.splitlines() if "(stage I), PQ" in x)
  assert row.split(" | ")[1:] == [
      "60.5 ± 0.7", "60.5 ± 0.7", "80.5 ± 0.7", "60.5 ± 0.7", "60.5 ± 0.7",
      "60.5 ± 0.7", "failed |"]
  assert "| published | 75.7 | 75.7 | 85.8 | 19.6 | 25.5 | 75.7 | 66.1 |" in (
      page)
  cell = read(tmp_path, "table2")["scores"]["stage2"]["no_image"]
  assert cell["mean"] is None and "no luck today" in cell["reason"]

  monkeypatch.delenv("FAIL")
  code, commands = fake("table2")
  assert code == 0 and len(commands) == 4
  assert fake("table2") == (0, [])
  assert "Not there" not in (tmp_path / "w/table2.md").read_text()


def test_effects_and_figures(fake, tmp_path):
  assert fake("table2")[0] == 0
  results = read(tmp_path, "table2")
  verdicts = {x["effect"]: x["verdict"] for x in results["checks"]}
  assert verdicts["dropout: stage I falls"] == "holds (2 of 2 seeds)"
  assert verdicts["autoregression: UViM drops without"] == (
      "DOES NOT HOLD (0 of 2 seeds)")
  scores = results["scores"]
  # Training metrics: of the last tenth, without the 99 before it.
  assert scores["nll"]["no_dropout"] == {
      "values": {"0": 3, "1": 3}, "mean": 3, "spread": 0, "published": 4.2,
      "reason": ""}
  assert scores["stage2"]["no_oracle"]["reason"] == "N/A"
  # More seeds: only what is new is run.
  code, commands = fake("table2", seeds=3)
  assert code == 0 and len(commands) == 10


def test_nothing_is_run_for_a_look(fake, tmp_path, capsys):
  assert fake("fig6", "--dry_run") == (0, [])
  out = capsys.readouterr().out
  assert out.count("python -m trainers.lm") == 8
  assert "16 of 16 runs to do" in out and not (tmp_path / "w").exists()
  assert fake("fig6", "--collect") == (0, [])
  page = (tmp_path / "w/fig6.md").read_text()
  assert page.count("not run yet") > 8 and "| 16 | not run yet |" in page


def test_a_run_is_done_when_scored_and_saved(fake, tmp_path):
  fake("table2", seeds=1)
  data = plan.load_sweep("table2", "tiny")
  cells = plan.plan_runs(data, workdir=str(tmp_path / "w"), num_seeds=1)
  run = cells["default", 0][1]
  assert progress_of(run) == (10, 10)
  path = run.workdir / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(x for x in lines if "zero_code" not in x))
  assert progress_of(run) == (9, 10)
  path.write_text(lines[0] + lines[1][:9])  # Killed while it wrote.
  assert reason_of(run) == "stopped at step 5 of 10"
  path.write_text("".join(lines))
  (run.workdir / "checkpoints/10").rmdir()
  assert not is_done(run)


@pytest.mark.parametrize("shape,means,holds", [
    ("rises", [[1, 2], [2, 3], [3, 4]], True),
    ("rises", [[1, 2], [2, 1], [3, 4]], False),
    ("peaks inside rows", [[1, 2], [5, 4], [3, 3]], True),
    ("peaks inside rows", [[1, 2], [2, 3], [3, 4]], False),
    ("peaks inside columns", [[1, 5, 3], [2, 4, 3]], True),
    ("peaks inside columns", [[1, 1, 1], [5, 4, 3]], False)])
def test_shapes_of_grids(shape, means, holds):
  """On the means, and in each seed; the second seed's grid is flat."""
  grid = recipe.Grid(rows=range(len(means)), columns=range(len(means[0])))
  data = recipe.Sweep("", recipe=None, cells={}, scores={}, grid=grid)
  trend = recipe.Trend("", "pq", shape, "")
  by_cell = {i: figures.Figure(values={"0": x, "1": 0}, mean=x, spread=0.5)
             for i, x in enumerate(sum(means, []))}
  found = verdicts.judge_trend(trend, data, {"pq": by_cell})
  assert found.verdict == (
      "holds (1 of 2 seeds)" if holds else "DOES NOT HOLD (0 of 2 seeds)")
  # No seed that all cells have.
  by_cell[0] = figures.Figure(values={"2": 1}, mean=1, spread=0.5)
  found = verdicts.judge_trend(trend, data, {"pq": by_cell})
  assert found.verdict == "not run yet"


def test_age_of_words():
  """All replaced at every step, none, and a tenth: then 9 steps old."""
  assert plot.ages([(5, 8)], 8) == [(5, 0)]
  assert plot.ages([(5, 0), (9, 0)], 8) == [(5, 5), (9, 9)]
  assert plot.ages([(500, 1)], 10)[0].value == pytest.approx(9)


def test_numbers_show_three_digits():
  assert [figures.number(x) for x in (43.71, 4.214, 0.4672)] == [
      "43.7", "4.21", "0.467"]
  assert figures.number(0.456, like=43.7) == "0.5"


# ── Runs that are real, of a few steps ──────────────────────────────────────


class InProcess:
  """A trainer in this process: its imports and programs are there already."""

  def __init__(self, run, log, cores):
    del cores
    kind = run.command[2].rpartition(".")[2]
    with contextlib.redirect_stderr(log):
      self.returncode = main.main(kind, "", run.command[3:])

  def poll(self):
    return self.returncode


class PowerFailure(Exception):
  pass


def fails_at_stage_ii(run, log, cores):
  if run.stage == 2:
    raise PowerFailure
  return InProcess(run, log, cores)


def two_cells(folder):
  """A code with and without a language model: they share stage I."""
  scores_at_end = "config.log_eval_steps = 8\nconfig.panel_steps = 8\n"
  vqvae = cli.write_config(
      folder, "vqvae", scores_at_end + "config.zero_code.log_steps = 8")
  lm = cli.write_config(folder, "lm", scores_at_end)
  return recipe.Sweep(
      title="Two cells",
      recipe=recipe.Recipe(recipe.Stage(str(vqvae), {}, 1),
                           recipe.Stage(str(lm), {}, 1), "minutes"),
      cells={"code": recipe.Cell("code", stage2=None),
             "lm": recipe.Cell("LM")},
      scores={"pq": recipe.Score("PQ", 1, "zero_code/PQ"),
              "nll": recipe.Score("NLL", 2, "train/loss", {"lm": 1.3})})


def test_two_cells_end_to_end(tmp_path, rooms_tiny_dir):
  data = two_cells(tmp_path)
  argv = ["two", "--workdir", str(tmp_path / "w"), "--size", "tiny",
          "--seeds", "1", "--data_dir", str(rooms_tiny_dir)]

  def call(start):
    return sweep.main(argv, sweep.Outside(
        load_sweep=lambda name, size: data, start=start))

  with pytest.raises(PowerFailure):
    call(fails_at_stage_ii)
  before = {p: p.stat().st_mtime_ns
            for p in (tmp_path / "w/runs").rglob("checkpoints/*/*")}
  assert before
  assert call(InProcess) == 0
  assert before == {p: p.stat().st_mtime_ns for p in before}
  found = json.loads((tmp_path / "w/two.json").read_text())["scores"]
  assert 2 < found["nll"]["lm"]["mean"] < 3.5  # 17 words: 2.83 at first.
  assert found["nll"]["code"]["reason"] == "N/A"
  assert 0 <= found["pq"]["code"]["mean"] == found["pq"]["lm"]["mean"] <= 100
  page = (tmp_path / "w/two.md").read_text()
  assert f"--seeds 1 --data_dir {rooms_tiny_dir}\n" in page
  assert "| NLL | N/A | 2." in page and "| published | – | 1.3 |" in page
  with Image.open(tmp_path / "w/two.png") as image:
    assert (31, 119, 180) in {  # Bars: matplotlib's first color, C0.
        tuple(x) for x in np.asarray(image)[::3, ::3, :3]
        .reshape(-1, 3).tolist()}
