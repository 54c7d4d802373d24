"""What holds for every evaluator: order, skipped examples, merged states."""

import types

import numpy as np
import pytest
import tensorflow as tf

import evaluators
from evaluators import base, common, mean
from uvim import fields
from uvim.categories import Category
from uvim.registry import ConfigError

NUM = 7
SIZE = (12, 16)
TRUTH = 'decode|value_range(-1, 1)|copy("image", "labels")'
# Of each evaluator: its options, and the predictions that it takes.
CASES = {
    "coco_panoptic": ({}, ["panoptic"]),
    "coltran_fid": ({"reference_split": "reference", "features": "quadrants"},
                    ["color"]),
    "davis": ({}, ["panoptic"]),
    "depth_samples": ({"crop": "none"}, ["depth"]),
    "mean": ({}, ["loss", "nll"]),
    "normals": ({"pp_truth": 'keep("normals")|copy("normals", "labels")'},
                ["normals"]),
    "nyu_depth": ({"crop": "none"}, ["depth"]),
    "psnr": ({"pp_truth": TRUTH}, ["color"]),
    "save_predictions": ({"save_dir": "{folder}"}, ["depth", "loss"]),
    "stq": ({}, ["panoptic"]),
}
CASE_OF_CLASS = {evaluators.EVALUATORS[name]: case
                 for name, case in CASES.items()}


class ToySplit:
  """Examples with random truth for every evaluator."""

  dataset = "toy"
  folder = "/data/toy/1.0.0"
  num_examples = NUM
  categories = (Category(1, "cup", True), Category(5, "wall", False))

  def __init__(self, split):
    self.split = split

  def example(self, index):
    rng = np.random.default_rng([len(self.split), index])
    blocks = rng.integers(0, 3, (3, 4)).repeat(4, 0).repeat(4, 1)
    segments = np.unique(blocks[blocks > 0])
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    return {
        "image/id": index + 100,
        "clip/id": np.int64(index // 4),
        "file_name": f"{self.split}{index}".encode(),
        "image": tf.io.encode_png(image).numpy(),
        "depth": rng.uniform(1, 9, SIZE).astype(np.float32),
        "normals": rng.normal(size=(*SIZE, 3)).astype(np.float32),
        "panoptic_image": np.stack(
            [blocks, 0 * blocks, 0 * blocks], -1).astype(np.uint8),
        "panoptic_objects": {
            "id": segments, "label": segments - 1,
            "is_crowd": np.zeros(len(segments), bool)},
    }


def predict(index):
  """A prediction that is right in places."""
  rng = np.random.default_rng(index)
  example = ToySplit("eval").example(index)
  semantics = example["panoptic_image"][..., 0].astype(int)
  semantics[:, rng.integers(4, 9):] = 1
  return {
      "image/id": index + 100,
      "panoptic": np.stack([semantics, 0 * semantics], -1),
      "color": rng.uniform(-1, 1, (*SIZE, 3)).astype(np.float32),
      "depth": example["depth"] * rng.uniform(0.8, 1.3, SIZE),
      "normals": example["normals"] + rng.normal(size=(*SIZE, 3)),
      "loss": np.float32(rng.normal()),
      "nll": np.float32(rng.normal()),
  }


def make(name, folder):
  """(an evaluator of the table, its predictions)."""
  options, keys = CASE_OF_CLASS[evaluators.EVALUATORS[name]]
  options = dict(options)
  if "save_dir" in options:
    options["save_dir"] = options["save_dir"].format(folder=folder)
  if "reference_split" in options:
    options["open_split"] = lambda dataset, split, data_dir: ToySplit(split)
  evaluator = evaluators.make_evaluator(name, ToySplit("eval"), options)
  predictions = []
  for index in range(NUM):
    whole = predict(index)
    predictions.append({key: whole[key] for key in ["image/id", *keys]})
  return evaluator, predictions


def updated(evaluator, state, pairs):
  for prediction, truth in pairs:
    state = evaluator.update(state, prediction, truth)
  return state


@pytest.mark.parametrize("name", evaluators.EVALUATORS)
def test_states_of_two_parts_merge_to_that_of_the_whole(name, tmp_path):
  evaluator, predictions = make(name, tmp_path)
  whole = base.score(evaluator, predictions)
  assert whole and np.isfinite(list(whole.values())).all()
  pairs = list(common.with_truth(predictions, NUM, evaluator.read_truth))
  first = updated(evaluator, evaluator.initial(), pairs[:3])
  second = updated(evaluator, evaluator.initial(), pairs[3:])
  merged = evaluator.result(evaluator.merge(first, second))
  assert list(merged) == list(whole)
  assert merged == pytest.approx(whole, rel=1e-12)
  # One part alone scores something else, so the comparison can fail.
  assert evaluator.result(first) != pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", evaluators.EVALUATORS)
def test_a_state_is_a_value(name, tmp_path):
  """What comes after a state does not change it; merging nothing neither."""
  evaluator, predictions = make(name, tmp_path)
  pairs = list(common.with_truth(predictions, NUM, evaluator.read_truth))
  state = updated(evaluator, evaluator.initial(), pairs[:4])
  before = evaluator.result(state)
  updated(evaluator, state, pairs[4:])
  evaluator.merge(state, state)
  assert evaluator.result(state) == before
  for merged in (evaluator.merge(evaluator.initial(), state),
                 evaluator.merge(state, evaluator.initial())):
    assert evaluator.result(merged) == before


def test_files_of_merged_parts_are_those_of_the_whole(tmp_path):
  texts = []
  for part, num_first in (("whole", NUM), ("merged", 3)):
    evaluator = evaluators.make_evaluator(
        "coco_panoptic", ToySplit("eval"), {"save_dir": tmp_path / part})
    predictions = [predict(index) for index in range(NUM)]
    pairs = list(common.with_truth(predictions, NUM, evaluator.read_truth))
    first = updated(evaluator, evaluator.initial(), pairs[:num_first])
    second = updated(evaluator, evaluator.initial(), pairs[num_first:])
    evaluator.result(evaluator.merge(first, second))
    texts.append((tmp_path / part / "panoptic.json").read_text())
    assert len(list((tmp_path / part / "panoptic").iterdir())) == NUM
  assert texts[0] == texts[1]


def test_only_one_process_exports_the_maps(tmp_path):
  evaluator = evaluators.make_evaluator(
      "coco_panoptic", ToySplit("eval"), {"save_dir": tmp_path / "maps"})
  evaluator.is_writer = False
  scores = base.score(evaluator, [predict(index) for index in range(NUM)])
  assert scores["PQ"] > 0
  assert not (tmp_path / "maps").exists()


def scored_by_mean(predictions, num):
  split = types.SimpleNamespace(num_examples=num)
  return base.run_pass(mean.Mean(split), predictions)


def test_skipped_examples_are_left_out_and_counted():
  outcome = scored_by_mean([None, {"loss": 2.0}, None, {"loss": 4.0}], 4)
  assert outcome.num_skipped == 2
  assert outcome.state == mean.Totals(2, {"loss": 6.0})
  assert scored_by_mean([{"loss": 2.0}], 1).num_skipped == 0


def test_numbers_of_predictions_and_examples_agree():
  with pytest.raises(ValueError, match="1 predictions for the 2 examples"):
    scored_by_mean([{"loss": 2.0}], 2)
  with pytest.raises(ValueError, match="more predictions than examples.*: 1"):
    scored_by_mean([{"loss": 2.0}, None], 1)


def test_truth_is_of_the_predicted_image():
  predictions = [predict(index) for index in range(NUM)]
  predictions[2], predictions[3] = predictions[3], predictions[2]
  evaluator = evaluators.make_evaluator(
      "nyu_depth", ToySplit("eval"), {"crop": "none"})
  with pytest.raises(ValueError, match="prediction 2 is of image 103, the "
                                       "truth of image 102"):
    base.score(evaluator, predictions)


def test_a_prediction_without_an_id_gets_its_place():
  pairs = common.with_truth([None, {"x": 1}, {"image/id": 9, "x": 2}], 3,
                            lambda index: None)
  assert [prediction["image/id"] for prediction, _ in pairs] == [1, 9]


@pytest.mark.parametrize("number", [0, 5, 2**31, 2**32 + 7, 10**10, -3])
def test_samples_are_seeded_with_the_low_half_of_an_id(number):
  seeds = common.seed_ids(np.array([number]))
  assert seeds.dtype == np.uint32 and seeds.tolist() == [number % 2**32]
  assert common.seed_ids(seeds).tolist() == seeds.tolist()


def test_mistakes_in_options_name_their_place_in_the_config():
  with pytest.raises(ConfigError, match=r"config\.fid\.options\.num_files = 0;"
                                        " it must be an integer ≥ 1"):
    evaluators.make_evaluator("coltran_fid", ToySplit("eval"),
                              {"num_files": 0}, "config.fid.options")
  with pytest.raises(ConfigError, match=r"'nyu_depth\.options\.corp'.*crop'"):
    evaluators.make_evaluator("nyu_depth", ToySplit("eval"), {"corp": "none"})


@pytest.mark.parametrize("name", evaluators.EVALUATORS)
def test_defaults_of_options_are_allowed(name):
  for option in fields.options_of(evaluators.evaluator_class(name)).values():
    fields.check_value(option, option.default, name)
