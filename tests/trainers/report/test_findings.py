"""What a page says in words, and what it says of categories."""

import json
import re

import numpy as np
import pytest

from tests.trainers.report import runs
from trainers.report import (
  details_file,
  findings,
  headlines,
  run_files,
  run_page,
)


def row(name, **changes):
  """A category of the details."""
  fields = dict(name=name, isthing=False, pq=50.0, sq=80.0, rq=62.5, tp=5,
                fp=1, fn=2, pieces=1.0)
  return fields | changes


def details(*categories, **changes):
  return dict(num_images=9, categories=list(categories), confusions=[],
              images=[], thing_share=None) | changes


EVALS = [
    runs.evaluator("uvim"), runs.evaluator("sampled"),
    runs.evaluator("oracle_code", pred="oracle"),
    runs.evaluator("zero_code", pred="zero_code")]
ORACLE = dict(task="panoptic_segmentation",
              model=dict(patch_size=[8, 8], input_size=[64, 64]))


def write_run(workdir, scores, *, evals=EVALS, metric="PQ", **config):
  """A run of one evaluation: evaluator → score."""
  kind = dict(kind="lm", dataset="rooms", oracle=ORACLE) | config
  kind["evals"] = evals
  (workdir / "config.json").write_text(json.dumps(kind))
  lines = []
  for name, score in scores.items():
    temperature = 1.0 if name == "sampled" else 0.0
    lines.append((100, {f"{name}/{metric}": score,
                        "settings": {"temperature": temperature}}))
  runs.write_lines(workdir, lines)
  return run_files.read_run(workdir)


def seen(run):
  return " ".join(finding.seen for finding in findings.of_run(run))


@pytest.mark.parametrize("uvim,oracle,zero,words", [
    (30, 55, 20, "The language model is the bottleneck (PQ: no code 20, UViM "
     "30, the oracle's code 55)."),
    (50, 55, 20, "Stage I is the limit"),
    (7.4, 37.7, 9.6, "UViM is below no code"),
    (20, 19, 19.5, "Even the oracle's code is of no use")])
def test_which_stage_limits_the_score(tmp_path, uvim, oracle, zero, words):
  scores = {"uvim": uvim, "oracle_code": oracle, "zero_code": zero}
  first = findings.of_run(write_run(tmp_path, scores))[0]
  assert first.seen.startswith(words)
  assert first.advice


def test_an_answer_worse_than_the_mean_by_its_nature(tmp_path):
  scores = {"uvim": 0.72, "oracle_code": 0.39, "zero_code": 0.65}
  first = findings.of_run(write_run(tmp_path, scores, metric="RMSE"))[0]
  assert first.seen.startswith("UViM is no better than no code (RMSE: ")
  assert "mean of several samples" in first.advice


def test_the_best_evaluator_of_uvim_is_judged(tmp_path):
  scores = {"uvim": 7.4, "sampled": 12.7, "oracle_code": 37.7, "zero_code": 9.6}
  run = write_run(tmp_path, scores)
  assert headlines.main_evaluator(run)["name"] == "sampled"
  assert "the bottleneck (PQ: no code 9.6, UViM 12.7" in seen(run)
  assert "PQ is 12.7 at temperature 1, 7.4 at 0." in seen(run)


@pytest.mark.parametrize("scores, words, advice", [
    ((30.0, 35.0, 40.0), "More steps are better: PQ is 30 at 1, 35 at 5, 40 at "
     "20.", "--evaluator steps_20 --set num_steps=50"),
    ((30.0, 40.0, 39.9), "5 steps are enough: PQ is 30 at 1, 40 at 5, 39.9 at ",
     "Predict with --num_steps 5."),
    ((0.0, 0.0, 0.0), "No segment is found yet.", "train/loss_instances")])
def test_how_many_steps_pix2seq_d_needs(tmp_path, scores, words, advice):
  numbers = (20, 1, 5)
  evals = [runs.evaluator(f"steps_{number}") for number in numbers]
  fields = dict(kind="pix2seq_d", dataset="rooms", oracle=None, evals=evals,
                task="panoptic_segmentation", model=dict(mask_size=[48, 48]))
  (tmp_path / "config.json").write_text(json.dumps(fields))
  score_of = dict(zip(sorted(numbers), scores, strict=True))
  runs.write_lines(tmp_path, [
      (100, {f"steps_{number}/PQ": score_of[number],
             "settings": {"num_steps": number}}) for number in numbers])
  run = run_files.read_run(tmp_path)
  finding, = findings.of_run(run)
  assert finding.seen.startswith(words) and advice in finding.advice
  assert findings.next_step(run).startswith("See predictions for images")
  page = "".join(run_page.body(run))
  assert "Pix2Seq-D: panoptic segmentation" in page
  assert "takes the noise out of a mask" in page


@pytest.mark.parametrize("nats,is_guess", [(5.5, True), (4.0, False)])
def test_a_masked_prior_that_guesses(tmp_path, nats, is_guess):
  oracle = ORACLE | {"model": ORACLE["model"] | {"dict_size": 256}}
  run = write_run(tmp_path, {"uvim": 30.0}, oracle=oracle)
  run.metrics["val/masked_nll"] = [(100, nats)]
  words = "a masked word of an unseen image costs 5.5 nats, an even guess " \
      "among 256 words 5.55"
  assert (words in seen(run)) == is_guess


def test_without_the_other_evaluators_it_says_what_to_add(tmp_path):
  run = write_run(tmp_path, {"uvim": 30.0}, evals=EVALS[:1])
  only, = findings.of_run(run)
  assert only.seen.startswith("Nothing tells whether stage I or")
  assert 'pred = "oracle" and one with pred = "zero_code"' in only.advice


@pytest.mark.parametrize("oracle,words", [
    (37.7, "The code says something: PQ is 37.7 with the oracle's code, 9.6 "),
    (9.7, "The code is of no use yet: "), (3.0, "The code is of no use yet")])
def test_what_the_code_of_stage_i_is_worth(tmp_path, oracle, words):
  evals = [runs.evaluator("oracle_code"), EVALS[3]]
  run = write_run(
      tmp_path, {"oracle_code": oracle, "zero_code": 9.6}, evals=evals,
      kind="vqvae", oracle=None)
  assert seen(run).startswith(words)


SCORES = {"uvim": 30.0, "oracle_code": 33.0, "zero_code": 20.0}


@pytest.mark.parametrize("content,words", [
    (details(row("wall", pieces=3.1), row("car", isthing=True)),
     "Stuff is split into several segments (wall 3.1 in an image)"),
    (details(row("car", isthing=True), thing_share=0.9),
     "smaller than a patch: 0.9 % of the image, a patch has 1.6 %."),
    (details(row("car", isthing=True, pq=1.9), row("sky", pq=51.2)),
     "Things are hardly found: PQ 1.9, stuff 51.2."),
    (details(row("car", tp=0, fn=4), row("sky")), "Never found: car.")])
def test_what_the_details_tell(tmp_path, content, words):
  run = write_run(tmp_path, SCORES)
  details_file.write(tmp_path, 100, "uvim", content)
  assert words in seen(run)


def test_sound_details_tell_nothing(tmp_path):
  run = write_run(tmp_path, SCORES)
  sound = details(row("sky"), row("car", isthing=True, pq=40.0, pieces=3.0),
                  thing_share=1.6)
  details_file.write(tmp_path, 100, "uvim", sound)
  assert len(findings.of_run(run)) == 1
  # With merge_stuff nothing can be split.
  merged = [dict(EVALS[0], options={"merge_stuff": True}), *EVALS[1:]]
  run = write_run(tmp_path, SCORES, evals=merged)
  details_file.write(tmp_path, 100, "uvim", details(row("wall", pieces=3.0)))
  assert "split" not in seen(run)


def test_the_page_has_categories_confusions_and_images(tmp_path):
  run = write_run(tmp_path, SCORES, total_steps=100)
  content = details(
      row("sky", tp=7, fn=0), row("car", isthing=True, pq=12.5),
      confusions=[dict(truth="car", prediction=None, share=61.0)],
      images=[dict(id=7, pq=3.0, kind="worst"), dict(id=8, pq=80, kind="best")])
  details_file.write(tmp_path, 100, "uvim", content)
  writer = runs.make_recorder(tmp_path, start_step=100, total_steps=100)
  writer.image(100, "examples_uvim", np.zeros((8, 8, 3), np.uint8))
  writer.review(100)
  writer.close()
  page = (tmp_path / "report.html").read_text()
  rows = re.findall(r"<tr>(.*?)</tr>", page)
  cells = [re.findall(r">([^<]*)</t[hd]>", text) for text in rows]
  assert ["sky (stuff)", "50.0", "80.0", "62.5", "7 of 7", "1"] in cells
  assert ["car", "nothing", "61 %"] in cells
  reader = runs.PageReader(page)
  words = " ".join(reader.words)
  assert "The worst images: 7 (PQ 3)." in words
  assert len(reader.loads) == 1
  assert "python -m tools.predict --checkpoint" in words
  # Each name is explained.
  assert "UViM: the language model writes the code" in words
  assert "panoptic quality in percent" in words
  assert findings.next_step(run).startswith("See predictions for images")


def test_an_unfinished_run_says_so(tmp_path):
  run = write_run(tmp_path, SCORES, total_steps=400)
  assert findings.next_step(run).startswith("The run is at step 100 of 400")


def test_damaged_details_are_left_out(tmp_path, caplog):
  run = write_run(tmp_path, SCORES)
  (tmp_path / "details").mkdir()
  (tmp_path / "details" / "uvim.json").write_text('{"step": "many"}')
  assert len(findings.of_run(run)) == 1
  assert "uvim.json is left out" in caplog.text
  run_page.write_page(tmp_path)
