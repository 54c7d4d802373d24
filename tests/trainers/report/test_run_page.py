"""report.html: what a person finds in it, and that it stands alone."""

import html.parser
import json
import math
import re
import sys
import types

import numpy as np
import pytest

from tests.trainers import cli
from tools import report as tool
from trainers import main
from trainers.report import (
  plots,
  wandb_board,
)
from trainers.report import (
  recorder as report,
)
from trainers.report import (
  run_page as run_report,
)
from uvim.registry import ConfigError

EVALS = [
    dict(name=name, type="coco_panoptic", dataset="rooms", split="validation",
         options={}, pred=pred, prefix=f"{name}/")
    for name, pred in (("uvim", "predict"), ("oracle_code", "oracle"))]
CONFIG = dict(
    dataset="rooms", batch_size=16, model=dict(num_layers=4, emb_dim=128),
    oracle=dict(task="panoptic_segmentation"), evals=[
        dict(name="val", type="mean", dataset="rooms", split="validation",
             options={}, pred="loss", prefix="val/"), *EVALS])


class Reader(html.parser.HTMLParser):
  """Tags, text, and what a browser would load."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.words, self.loads, self.open = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.loads += [v for k, v in attrs if k in ("src", "href")]
    if tag not in ("meta", "img", "html"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


@pytest.fixture
def run(tmp_path, capsys):
  """A stage II run of three evaluations; yields (workdir, page, stderr)."""
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  reporter = report.Reporter(
      tmp_path, start_step=0, total_steps=300, batch_size=16)
  for step in range(10, 310, 10):
    reporter.scalars(step, {
        "train/loss": 5 - step / 100, "train/grad_norm": 1.0,
        "train/code/usage": 0.03, "train/code/perplexity": 4.0})
    if step % 100 == 0:
      settings = {"temperature": 0.0, "min_fraction": 0.001}
      reporter.scalars(step, {"val/loss": 3.0}, {})
      reporter.scalars(step, {"uvim/PQ": 20 + step / 100,
                              "uvim/SQ": 50.0}, settings)
      reporter.scalars(step, {"oracle_code/PQ": 41.5}, settings)
      reporter.image(step, "panel", np.full((8, 8, 3), step % 256, np.uint8))
      reporter.review(step, np.int32([90, 9, 1, 0]))
  reporter.close()
  page = (tmp_path / "report.html").read_text()
  return tmp_path, page, capsys.readouterr().err


def test_everything_is_there_and_nothing_is_loaded(run):
  _, page, _ = run
  reader = Reader(page)
  assert not reader.open  # Every tag was closed.
  assert reader.loads and all(
      x.startswith("data:image/png;base64,") for x in reader.loads)
  assert len(reader.loads) == 3  # The newest panel, and two from before.
  assert not re.search(r"https?://|<script|@import", page)
  text = " ".join(reader.words)
  for words in (
      "Stage II: panoptic segmentation on rooms", "300 of 300",
      "PQ, validation", "Oracle − LM, PQ", "gap 18.5", "uvim 23",
      "oracle_code 41.5", "Share of words in use", "Perplexity of use",
      "Use of each word, step 300", "temperature 0.0, min_fraction 0.001",
      '"num_layers": 4', '"jax"', "Alarm: codebook collapse", "step 300"):
    assert words in text, words


def test_alarms_stand_in_the_log_and_in_the_metrics(run):
  workdir, _, err = run
  lines = [json.loads(line) for line in
           (workdir / "metrics.jsonl").read_text().splitlines()]
  at = [x["step"] for x in lines if "alarm/codebook_collapse" in x]
  assert at and at[0] == 30 and len(at) == err.count("ALARM, codebook") <= 10


def test_scores_stand_side_by_side(run):
  workdir, _, _ = run
  rows = re.findall(r"<tr>(.*?)</tr>", "".join(
      run_report._scores(run_report.read(workdir))))
  cells = [re.findall(r">([^<]*)</t[hd]>", row) for row in rows]
  assert ["", "uvim", "oracle_code"] in cells
  assert ["PQ", "23", "41.5"] in cells
  assert ["SQ", "50", ""] in cells  # One of them alone has it.


@pytest.mark.parametrize("splits,life", [
    ([9] * 5 + [0, 1] * 5, "one lives for 128 steps"), ([0], "all live on")])
def test_how_long_a_word_lives(tmp_path, splits, life):
  (tmp_path / "config.json").write_text(json.dumps(
      {"model": {"dict_size": 64}}))
  (tmp_path / "metrics.jsonl").write_text("".join(
      json.dumps({"step": i, "train/code/splits": n}) + "\n"
      for i, n in enumerate(splits)))
  run_report.write(tmp_path)
  assert life in (tmp_path / "report.html").read_text()


def test_a_run_with_nothing_yet_has_a_page(tmp_path):
  run_report.write(tmp_path)
  assert not Reader((tmp_path / "report.html").read_text()).open


def test_a_page_that_cannot_be_made_does_not_end_the_run(tmp_path, capsys):
  reporter = report.Reporter(
      tmp_path, start_step=0, total_steps=3, batch_size=1)
  (tmp_path / "config.json").write_text("{")
  reporter.review(1, np.zeros(4, np.int32))
  reporter.close()
  assert "report.html was not written" in capsys.readouterr().err


def test_sessions_say_how_often_it_was_started(tmp_path):
  for start in (0, 40):
    report.Reporter(tmp_path, start_step=start, total_steps=90,
                    batch_size=1).close()
  sessions = json.loads((tmp_path / "sessions.json").read_text())
  assert [s["step"] for s in sessions] == [0, 40]
  assert sessions[0]["versions"]["numpy"] == np.__version__


def points(svg):
  """The (x, y) of the first curve, y upwards."""
  text = re.search(r'polyline points="([^"]*)"', svg)[1]
  return np.array([[float(u), -float(v)] for u, v in (
      p.split(",") for p in text.split())])


def test_a_straight_line_is_drawn_straight():
  uv = points(plots.lines("t", {"a": [(x, 3 * x - 7) for x in range(9)]}))
  slopes = np.diff(uv[:, 1]) / np.diff(uv[:, 0])
  np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)
  assert slopes[0] > 0
  uv = points(plots.lines(
      "t", {"a": [(x, 10.0**x) for x in range(5)]}, log_y=True))
  slopes = np.diff(uv[:, 1]) / np.diff(uv[:, 0])
  np.testing.assert_allclose(slopes, slopes[0], rtol=0.02)


@pytest.mark.parametrize("values", [
    [], [5.0], [0.0, 0.0], [math.nan, math.inf, 2.0], [-1e-9, 1e9]])
@pytest.mark.parametrize("log_y", [False, True])
def test_odd_values_give_a_plot(values, log_y):
  svg = plots.lines("a & <b>", {"c": list(enumerate(values))}, log_y=log_y)
  assert "nan" not in svg and "inf" not in svg
  assert "a &amp; &lt;b&gt;" in svg
  assert not Reader(svg).open


def test_long_curves_become_means_of_neighbours():
  long = [(i, float(i % 2)) for i in range(3000)]
  short = plots.thin(long)
  assert len(short) == 300
  assert all(0.3 < y < 0.7 for _, y in short)
  assert np.mean([x for x, _ in short]) == pytest.approx(1499.5)


def test_ticks_are_round_and_inside():
  assert plots.ticks(0, 10) == [0, 2, 4, 6, 8, 10]
  for low, high in ((0, 1), (3.2, 4.7), (-17, 2e6), (1e-9, 3e-9)):
    got = plots.ticks(low, high)
    assert 2 <= len(got) <= 6
    assert all(low - 1e-9 * high <= t <= high * (1 + 1e-9) for t in got)


def fake_wandb():
  """The module, and what it was told."""
  told = types.SimpleNamespace(init=[], log=[], finished=0)

  class Run:
    def log(self, values, step):
      told.log.append((step, values))

    def finish(self):
      told.finished += 1

  def init(**kwargs):
    told.init.append(kwargs)
    return Run()

  return types.SimpleNamespace(
      init=init, Image=lambda x: ("image", x.shape),
      Histogram=lambda x: ("histogram", len(x))), told


def test_wandb_is_told_what_tensorboard_is(tmp_path, monkeypatch):
  module, told = fake_wandb()
  monkeypatch.setitem(sys.modules, "wandb", module)
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  for _ in range(2):  # Started, and resumed.
    reporter = report.Reporter(tmp_path, start_step=0, total_steps=9,
                               batch_size=1, wandb="paintings")
    reporter.scalars(3, {"train/loss": 2.0})
    reporter.image(3, "panel", np.zeros((4, 5, 3), np.uint8))
    reporter.review(3, np.int32([1, 2]))
    reporter.close()
  one, two = told.init
  assert one["project"] == "paintings" and one["config"] == CONFIG
  assert one["id"] == two["id"] and two["resume"] == "allow"
  assert told.finished == 2
  assert told.log[:3] == [
      (3, {"train/loss": 2.0}), (3, {"panel": ("image", (4, 5, 3))}),
      (3, {"code/uses_per_word": ("histogram", 2)})]


def test_wandb_that_is_absent_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ConfigError, match="pip install wandb"):
    wandb_board.check()
  # Nobody needs it who does not ask for it.
  report.Reporter(tmp_path, start_step=0, total_steps=1,
                  batch_size=1).close()


def test_a_page_can_be_made_again_and_of_several_runs(run, tmp_path, capsys):
  workdir, page, _ = run
  (workdir / "report.html").unlink()
  tool.main([str(workdir)])
  assert (workdir / "report.html").read_text() == page
  out = tmp_path / "both.html"
  tool.main([str(workdir), str(workdir), "--out", str(out)])
  assert out.read_text().count("<h1>Stage II") == 2
  assert not Reader(out.read_text()).open
  with pytest.raises(SystemExit, match="no config.json"):
    tool.main([str(tmp_path / "nowhere")])


def test_the_flag_is_checked_before_anything_is_made(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "wandb", None)
  argv = cli.arguments(cli.write_config(tmp_path, "vqvae"), tmp_path / "run",
                       "--wandb=paintings")
  assert main.command(None, "trainers.vqvae", argv) == main.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert error.startswith("error: --wandb needs") and error.count("\n") == 1
  assert not (tmp_path / "run").exists()


def test_names_of_a_panels_rows_stand_beside_its_pictures():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  plain = report.panel({"a": images}, scale_to=16)
  named = report.panel({"a": images}, scale_to=16, names=["", "longer name"])
  margin = named[:, :named.shape[1] - plain.shape[1]]
  np.testing.assert_array_equal(named[18:, margin.shape[1]:], plain[18:])
  first, second = np.split(margin[20:60], 2)
  assert (first == 255).all() and (second != 255).any()
