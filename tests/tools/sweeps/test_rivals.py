"""The sweeps that compare systems: what they share, and what they cost."""

import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from configs.sweeps import recipe
from tools.sweeps import decisions, plan, plot, results, runs, sampling
from tools.sweeps.figures import Figure
from trainers import config_file
from uvim import files
from uvim.config import resolve

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def load(name, size="rooms", workdir="w"):
  """(the sweep, its runs)."""
  data = plan.load_sweep(name, size)
  return data, plan.plan_runs(data, workdir=workdir, num_seeds=1)


def command_of(run):
  return " ".join(run.command)


def test_rivals_share_the_trainings_of_other_sweeps():
  _, cells = load("rivals")
  trainings = set()
  for run in plan.unique_runs(cells):
    if run.stage != "sampling":
      trainings.add(run.name)
  # Stage I of VQ, FSQ and GIVT; two and two and one prior; two base models;
  # Pix2Seq-D.
  assert len(trainings) == 3 + 5 + 2 + 1
  same = {
      "table2": ("no_oracle", "base", 1),
      "priors": ("masked_8", "vq_masked", "sampling"),
      "quantizers": ("fsq", "fsq_ar", 2),
      "p2s_steps": ("steps_5_td_1", "p2s_5", 1),
  }
  for name, (theirs, ours, stage) in same.items():
    _, others = load(name)
    assert others[theirs, 0][stage].name == cells[ours, 0][stage].name


def test_each_rival_is_measured_by_its_own_evaluator():
  _, cells = load("rivals")
  expected = {
      "base": "--evaluator oracle_code --out",
      "vq_ar": "--evaluator uvim --out",
      "fsq_masked": "--evaluator uvim --set num_iter=8",
      "p2s_20": "--evaluator steps_20 --set num_steps=20"}
  for name, text in expected.items():
    assert text in command_of(cells[name, 0]["sampling"])
  assert "configs/lm_rooms_panoptic.py:fsq " in (
      command_of(cells["fsq_masked", 0][2]))
  # One training has two measurements of other names.
  assert cells["p2s_5", 0][1] is cells["p2s_20", 0][1]
  assert cells["p2s_5", 0]["sampling"] is not cells["p2s_20", 0]["sampling"]


def test_a_base_model_gets_the_time_of_both_stages():
  data, cells = load("rivals")
  longer = cells["base_longer", 0][1]
  uvim = cells["vq_ar", 0]
  assert longer.cost == pytest.approx(uvim[1].cost + uvim[2].cost)
  config = resolve(config_file.load_config(
      longer.command[4], longer.command[7:]))
  base = cells["base", 0][1]
  assert config.total_steps == pytest.approx(
      recipe.ROOMS_STEPS[0] * longer.cost / base.cost, abs=1)
  assert config.log_eval_steps == config.total_steps
  # The page says what the cell's own config is.
  found = results.collect(data, cells)
  settings = found.cells["p2s_5"].overrides["stage I"]
  assert settings["config"] == "configs/pix2seq_d_rooms_panoptic.py"
  assert found.cells["fsq_ar"].overrides["stage II"] == {"argument": "fsq"}


def test_joint_scores_train_nothing_that_depth_has_not_trained():
  _, cells = load("depth_joint")
  _, others = load("depth")
  trainings = {"no_code": ("no_oracle", 1), "ar": ("default", 2),
               "at_once": ("no_autoregression", 2)}
  for beginning, (theirs, stage) in trainings.items():
    for (name, _), cell_runs in cells.items():
      if name in (beginning, f"{beginning}_samples", f"{beginning}_mean"):
        assert cell_runs[stage].name == others[theirs, 0][stage].name
  samples = command_of(cells["ar_samples", 0]["sampling"])
  assert ("--set type=depth_samples --set pred=samples --set num_samples=8 "
          "--set temperature=1.0") in samples


@pytest.mark.parametrize(("name", "places", "words"), [
    ("hard_latent", 256, 1), ("hard_residual", 64, 4)])
def test_hard_codes_are_longer_than_patches(name, places, words):
  data, cells = load(name)
  longest = data.grid.rows[-1]
  run = cells[f"{longest}_whole", 0][2]
  config = resolve(config_file.load_config(run.command[4], run.command[7:]))
  assert config.dataset == run.dataset == "rooms/hard"
  oracle = config.oracle.model
  assert oracle["code_len"] == places
  assert oracle.get("num_quantizers", 1) == words
  assert oracle["code_dropout"] == "none"
  assert config.model["seq_len"] == 256
  assert config.model["vocab_size"] == 256 + 1


@pytest.mark.parametrize("name", [
    "hard_latent", "hard_residual", "depth_joint", "depth_joint_hard"])
def test_what_would_decide_is_written_down(name):
  data = plan.load_sweep(name, "rooms")
  assert len(data.decisions) == 2
  text = decisions.text_of(data)
  assert text.count("Confirmed if") == text.count("Refuted if") == 2


@pytest.mark.parametrize("name", ["rivals", "rivals_depth"])
def test_figures_quoted_by_others_are_marked(name):
  data = plan.load_sweep(name, "full")
  score = next(iter(data.scores.values()))
  assert "unverified" in score.published["fsq_ar"]
  assert "without image" in score.published["givt"]


# ── What a system costs ─────────────────────────────────────────────────────


def end_run(run, minutes):
  """Leaves the files of a run that is done."""
  (run.workdir / "checkpoints" / "4").mkdir(parents=True)
  files.write_json(run.workdir / "sessions.json", [{"total_steps": 4}])
  lines = ['{"step": 4, "train/loss": 1}']
  for prefix in run.prefixes:
    lines.append(f'{{"step": 4, "{prefix}PQ": 1, "settings": {{}}}}')
  (run.workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
  # In two processes.
  runs.add_seconds(run, 10)
  runs.add_seconds(run, 60 * minutes - 10)


def test_minutes_are_those_of_both_stages(tmp_path):
  data, cells = load("rivals", workdir=str(tmp_path))
  uvim = cells["vq_ar", 0]
  end_run(uvim[1], 3)
  minutes = results.collect(data, cells).scores["minutes"]
  assert minutes["vq_ar"].mean is None
  assert minutes["vq_ar"].reason == "seed 0: not run yet"
  end_run(uvim[2], 4)
  minutes = results.collect(data, cells).scores["minutes"]
  assert minutes["vq_ar"].values == {"0": pytest.approx(7)}
  # The masked prior is not trained yet, although its oracle is.
  assert minutes["vq_masked"].mean is None
  uvim[1].times.unlink()
  minutes = results.collect(data, cells).scores["minutes"]
  assert "has no times" in minutes["vq_ar"].reason


def test_parameters_are_counted_with_the_oracle():
  prior = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(4)}}
  oracle = {"params": {"d": np.zeros(5)}, "state": {"e": np.zeros(100)}}
  count = sampling.count_params({"params": prior, "frozen": oracle})
  assert count == 6 + 4 + 5
  assert sampling.count_params({"params": prior, "frozen": {}}) == 10


# ── Page and plot ───────────────────────────────────────────────────────────


def test_a_decision_is_written_on_the_page():
  decision = recipe.Decision(
      sign="longer is better", guess="it was short.",
      confirmed_if="it rises.", refuted_if="it falls.")
  sweep = recipe.Sweep("", None, {}, {}, decisions=[decision])
  text = decisions.text_of(sweep)
  for part in ("**longer is better**", "Supposed: it was short.",
               "Confirmed if it rises.", "Refuted if it falls."):
    assert part in text
  assert decisions.text_of(recipe.Sweep("", None, {}, {})) == ""


def test_a_trade_off_is_one_plot_more(tmp_path):
  cells = {"a": recipe.Cell("slow"), "b": recipe.Cell("not run")}
  scores = {name: recipe.Score(name, 1, name) for name in ("pq", "ms")}
  found = {}
  for name, value in (("pq", 40.0), ("ms", 3.0)):
    found[name] = {"a": Figure({"0": value}, value, None),
                   "b": Figure({}, None, None, reason="not run yet")}
  widths = []
  for trade_off in (None, recipe.TradeOff(cost="ms", quality="pq")):
    sweep = recipe.Sweep("", None, cells, scores, trade_off=trade_off)
    made = results.Results("", (), {}, found, [], origin=None)
    plot.draw(tmp_path / "plot.png", sweep, made)
    with Image.open(tmp_path / "plot.png") as image:
      widths.append(image.width)
  assert widths[1] == pytest.approx(widths[0] * 3 / 2, rel=0.01)


def test_only_axes_that_wait_for_data_say_so():
  full, waiting, unused = MatplotlibFigure().subplots(1, 3)
  full.bar(0, 1)
  plot.mark_empty([full, waiting, unused], num_used=2)
  assert [len(ax.texts) for ax in (full, waiting, unused)] == [0, 1, 0]
  assert waiting.texts[0].get_text() == "not run yet"
  assert [ax.axison for ax in (full, waiting, unused)] == [True, False, False]
