"""report.html: what a person finds in it, and that it stands alone."""

import json
import re

import pytest

from tests.trainers.report import runs
from tools import report
from trainers.report import run_curves, run_files, run_page
from uvim.cli import app

# A line of the page's text for each of its parts.
EXPECTED = (
    "Stage II: panoptic segmentation on rooms", "300 of 300",
    "PQ, validation", "Oracle − LM, PQ", "gap 18.5", "uvim 23",
    "oracle_code 41.5", "Share of words in use", "Perplexity of use",
    "Use of each word, step 300", "temperature 0.0, min_fraction 0.001",
    '"num_layers": 4', '"jax"', "step 300", "Sample at temperature 1",
    "Alarm: repeated word (1.02 at step 100, 1.02 at step 200")


@pytest.fixture
def workdir(tmp_path):
  runs.record_run(tmp_path)
  return tmp_path


def read_page(workdir):
  return (workdir / "report.html").read_text()


def test_everything_is_there_and_nothing_is_loaded(workdir):
  page = read_page(workdir)
  reader = runs.PageReader(page)
  assert not reader.open_tags
  assert len(reader.loads) == 3  # The newest panel, and two from before.
  for source in reader.loads:
    assert source.startswith("data:image/png;base64,")
  assert not re.search(r"https?://|<script|@import", page)
  text = " ".join(reader.words)
  for words in EXPECTED:
    assert words in text, words


def test_a_masked_prior_has_one_curve_of_its_words(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(runs.CONFIG))
  runs.write_lines(tmp_path, [
      (10, {"train/masked_nll": 5.0}), (20, {"train/masked_nll": 4.0}),
      (20, {"val/masked_nll": 4.5, "settings": {}})])
  plot, = run_curves.curves(run_files.read_run(tmp_path))
  for words in ("Nats per masked word", "training 4", "unseen 4.5"):
    assert words in " ".join(runs.PageReader(plot).words), words


def test_scores_stand_side_by_side(workdir):
  rows = re.findall(r"<tr>(.*?)</tr>", read_page(workdir))
  cells = [re.findall(r">([^<]*)</t[hd]>", row) for row in rows]
  assert ["", "uvim", "oracle_code"] in cells
  assert ["PQ", "23", "41.5"] in cells
  assert ["SQ", "50", ""] in cells  # Only one evaluator has it.
  assert ["words_per_code", "1.02", "21"] in cells


def test_a_score_belongs_to_the_evaluator_with_the_longest_prefix(tmp_path):
  whole = runs.evaluator("whole", prefix="")
  part = runs.evaluator("part", prefix="p")
  config = dict(evals=[whole, part, runs.evaluator("p1")])
  (tmp_path / "config.json").write_text(json.dumps(config))
  runs.write_lines(tmp_path, [
      (1, {"RQ": 1.0, "alarm/oracle_gap": 2.0, "settings": {}}),
      (1, {"pPQ": 3.0, "settings": {}}),
      (1, {"p1/SQ": 4.0, "train/loss": 5.0, "settings": {}}),
      (2, {"train/lr": 5.0})])
  run = run_files.read_run(tmp_path)
  assert run.score_names(whole) == ["RQ", "train/loss"]
  assert run.score_names(part) == ["PQ"]
  assert run.score_names(whole, part) == ["RQ", "train/loss", "PQ"]


@pytest.mark.parametrize("splits,life", [
    ([9] * 5 + [0, 1] * 5, "one lives for 128 steps"), ([0], "all live on")])
def test_how_long_a_word_lives(tmp_path, splits, life):
  config = {"model": {"dict_size": 64}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  runs.write_lines(tmp_path, [
      (step, {"train/code/splits": count})
      for step, count in enumerate(splits)])
  run_page.write_page(tmp_path)
  assert life in read_page(tmp_path)


def test_an_alarm_of_another_version_is_named(tmp_path):
  runs.write_lines(tmp_path, [(9, {"alarm/too_hot": 2.5})])
  run_page.write_page(tmp_path)
  words = "".join(runs.PageReader(read_page(tmp_path)).words)
  assert ("Alarm: too hot (2.5 at step 9). See docs/troubleshooting.md."
          in words)


def test_a_run_with_nothing_yet_has_a_page(tmp_path):
  run_page.write_page(tmp_path)
  assert not runs.PageReader(read_page(tmp_path)).open_tags


@pytest.mark.parametrize("config,words", [
    (dict(task="depth", kind="vqvae"), "Stage I: depth on rooms"),
    (dict(oracle=dict(task="depth"), kind="lm"), "Stage II: depth on rooms"),
    (dict(task="depth", kind="diffusion"), "diffusion: depth on rooms"),
    # Older runs have no kind.
    (dict(task="depth"), "Stage I: depth on rooms"),
    (dict(oracle=dict(task="a_b")), "Stage II: a b on rooms")])
def test_the_title_says_what_is_trained(tmp_path, config, words):
  config = config | dict(dataset="rooms")
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert run_page.title(run_files.read_run(tmp_path)) == words


def test_only_some_earlier_panels_are_shown(workdir):
  newest = workdir / "pictures" / "panel_0000300.png"
  for step in range(0, 300, 10):
    earlier = workdir / "pictures" / f"panel_{step:07d}.png"
    earlier.write_bytes(newest.read_bytes())
  run_page.write_page(workdir)
  captions = re.findall(r"<figcaption>(.*?)</", read_page(workdir))
  assert captions == ["step 300", "step 0", "step 100", "step 190", "step 290"]


def test_a_page_can_be_made_again_and_of_several_runs(
    workdir, tmp_path, capsys):
  page = read_page(workdir)
  (workdir / "report.html").unlink()
  assert report.main([str(workdir)]) == app.EXIT_DONE
  assert read_page(workdir) == page
  both = tmp_path / "both.html"
  arguments = [str(workdir), str(workdir), "--out", str(both)]
  assert report.main(arguments) == app.EXIT_DONE
  assert both.read_text().count("<h1>Stage II") == 2
  assert not runs.PageReader(both.read_text()).open_tags
  capsys.readouterr()
  nowhere = str(tmp_path / "nowhere")
  assert report.main([nowhere]) == app.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert error.startswith("error: ") and "no config.json" in error


@pytest.mark.parametrize("prefix", ("uvim/", ""))
def test_an_evaluator_that_failed_is_named(tmp_path, prefix):
  evaluator = runs.evaluator("uvim", prefix=prefix)
  config = runs.CONFIG | {"evals": [evaluator]}
  (tmp_path / "config.json").write_text(json.dumps(config))
  writer = runs.make_recorder(tmp_path)
  settings = {"failed": "no pixel <to> score"}
  writer.scalars(100, {"failed/uvim": 1.0}, settings)
  writer.review(100)
  writer.close()
  words = "".join(runs.PageReader(read_page(tmp_path)).words)
  assert "uvim could not score at step 100: no pixel <to> score" in words
  # It is no score of an evaluator without a prefix.
  assert not run_files.read_run(tmp_path).score_names(evaluator)
