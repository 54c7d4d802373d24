"""A run as a person would find it, for the tests of its report."""

import html.parser
import json

import numpy as np

from trainers.report import recorder


def evaluator(name, **changes):
  """An entry of "evals" in config.json."""
  fields = dict(
      name=name, type="coco_panoptic", dataset="rooms", split="validation",
      options={}, pred="predict", prefix=f"{name}/")
  return fields | changes


CONFIG = dict(
    dataset="rooms", batch_size=16, model=dict(num_layers=4, emb_dim=128),
    oracle=dict(task="panoptic_segmentation", model=dict(code_len=64)), evals=[
        evaluator("val", type="mean", pred="loss"),
        evaluator("uvim"), evaluator("oracle_code", pred="oracle")])


def write_lines(workdir, lines):
  """Writes metrics.jsonl from (step, values)."""
  texts = [json.dumps({"step": step, **values}) for step, values in lines]
  (workdir / "metrics.jsonl").write_text("\n".join(texts) + "\n")


def make_recorder(workdir, **changes):
  options = dict(start_step=0, total_steps=300, batch_size=16)
  return recorder.Recorder(workdir, **(options | changes))


def record_run(workdir):
  """A stage II run of 300 steps with an evaluation after each 100."""
  (workdir / "config.json").write_text(json.dumps(CONFIG))
  writer = make_recorder(workdir)
  for step in range(10, 310, 10):
    writer.scalars(step, {
        "train/loss": 5 - step / 100, "train/grad_norm": 1.0,
        "train/code/usage": 0.03, "train/code/perplexity": 4.0})
    if step % 100 == 0:
      evaluate(writer, step)
  writer.close()


def evaluate(writer, step):
  settings = {"temperature": 0.0, "min_fraction": 0.001}
  writer.scalars(step, {"val/loss": 3.0}, {})
  writer.scalars(step, {
      "uvim/PQ": 20 + step / 100, "uvim/SQ": 50.0,
      "uvim/words_per_code": 1.02}, settings)
  writer.scalars(step, {
      "oracle_code/PQ": 41.5, "oracle_code/words_per_code": 21.0}, settings)
  writer.image(step, "panel", np.full((8, 8, 3), step % 256, np.uint8))
  writer.review(step, np.int32([90, 9, 1, 0]))


class PageReader(html.parser.HTMLParser):
  """Text of a page, tags that are still open, what a browser would load."""

  def __init__(self, text):
    super().__init__()
    self.words = []
    self.loads = []
    self.open_tags = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      if name in ("src", "href"):
        self.loads.append(value)
    if tag not in ("meta", "img", "html"):
      self.open_tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open_tags.pop() == tag

  def handle_data(self, data):
    self.words.append(data)
