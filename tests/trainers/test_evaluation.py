"""Evaluators bound to a family: passes, settings, mistakes, panels."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import vqvae_rooms_panoptic
from evaluators import mean
from pp import splits
from trainers import evaluation
from trainers.families import make_family
from trainers.families.base import Family
from trainers.families.compiled import Compiled
from uvim.cli import app
from uvim.config import EvalConfig, resolve
from uvim.learn import sharding
from uvim.registry import ConfigError

MESH = (("data", -1),)
NUM_DEVICES = 8
PP = 'decode|resize(16)|value_range(-1, 1)|keep("image")'


def outputs(logits, *, min_fraction: float = 0.0, title=None):
  """As a task's: its options belong to the predictor too."""
  del title
  return {"level": logits * (1 + min_fraction)}


def predict_level(variables, batch, *, seed=0, **options):
  """The mean level of an image, scaled."""
  level_B = jnp.mean(batch["image"], (1, 2, 3)) * variables["scale"]
  return outputs(level_B + seed, **options)


class ToyFamily(Family):
  """Nothing is trained; one prediction can be scored."""

  kind = "toy"
  task = types.SimpleNamespace(outputs=outputs)
  predictors = {"loss": predict_level}

  def init(self, rng):
    return {}, {}

  def check_batch(self, batch):
    pass

  def loss(self, *args):
    raise NotImplementedError

  def panel(self, *args):
    raise NotImplementedError


@pytest.fixture
def make(rooms_tiny_dir):
  """Builds an evaluation of 16 images of `rooms`, with changes."""
  def build(mesh=MESH, on_batch=None, **changes):
    block = dict(
        name="val", type="mean", dataset="rooms/tiny", split="validation",
        data_dir=rooms_tiny_dir, pp=PP, batch_size=NUM_DEVICES, log_steps=1,
        pred="loss")
    family = ToyFamily(types.SimpleNamespace(evals=(), feature_cache=None))
    return evaluation.make_evaluation(
        EvalConfig(**{**block, **changes}), family, Compiled(family),
        sharding.make_mesh(mesh), on_batch=on_batch)
  return build


def test_a_pass_scores_the_whole_split(make):
  calls = []
  made = make(on_batch=lambda: calls.append(1))
  first = made.run({"scale": 1.0}).metrics
  assert set(first) == {"level"} and first["level"] != 0
  assert len(calls) == 2  # 16 examples in batches of 8.
  # Other variables, the same pass.
  assert made.run({"scale": 2.0}).metrics["level"] == pytest.approx(
      2 * first["level"], rel=1e-5)


def test_a_pass_can_be_stopped_before_any_batch(make):
  def stop():
    raise app.Stop("now")

  with pytest.raises(app.Stop, match="now"):
    make(on_batch=stop).run({"scale": 1.0})


def test_settings_tell_every_switch(make):
  made = make(pred_kw={"min_fraction": 0.5})
  assert made.settings == {"seed": 0, "min_fraction": 0.5}
  made = make(type="nyu_depth", options={"crop": "none"})
  assert made.settings == {
      "crop": "none", "crop_top": 45, "min_depth": 0.001, "max_depth": 10.0,
      "seed": 0, "min_fraction": 0.0}
  # What is None changes nothing and is left out.
  made = make(type="coltran_fid", options={
      "features": "quadrants", "reference_split": "train"})
  assert set(made.settings) == {
      "features", "reference_split", "num_files", "pixel_scale",
      "input_tensor", "output_tensor", "seed", "min_fraction"}


@pytest.mark.parametrize("changes,message", [
    ({"pred": "predict"}, r"prediction in config\.val\.pred 'predict'.*loss"),
    ({"pred_kw": {"min_fractoin": 1}},
     r"'config\.val\.pred_kw\.min_fractoin' = 1.*min_fraction'"),
    ({"options": {"merge": 1}}, r"'config\.val\.options\.merge'.*none"),
    ({"pred_kw": {"seed": -1}}, r"val\.pred_kw\.seed = -1; .*4294967295"),
    ({"type": "nyu_depth", "options": {"max_depth": 0}},
     r"options\.max_depth = 0; it must be a number > 0"),
    ({"type": "save_predictions", "options": {"save_dir": 5}},
     r"options\.save_dir = 5; it must be None or a path"),
    ({"type": "maen"}, "evaluator 'maen'.*'mean'"),
    ({"batch_size": 9}, r"config\.val\.batch_size = 9"),
    ({"split": "test"}, "test"),
    ({"pp": "decoed"}, "decoed"),
])
def test_mistakes_are_named(make, changes, message):
  with pytest.raises(ConfigError, match=message):
    make(**changes)


@pytest.mark.parametrize("reports", [True, False])
def test_skipped_examples_are_counted_anew_in_each_pass(reports):
  """Only where the config lets bad examples pass."""
  def batches():
    yield {"x": np.arange(8.0), "_mask": np.arange(8) > 2,
           "_skipped": np.arange(8) < 3}
    yield {"x": np.arange(8.0), "_mask": np.arange(8) < 2,
           "_skipped": np.zeros(8, bool)}

  made = evaluation.Evaluation(
      config=types.SimpleNamespace(batch_size=8),
      evaluator=mean.Mean(types.SimpleNamespace(num_examples=10)),
      settings={},
      predict=jax.jit(lambda variables, batch: {"x": batch["x"] + variables}),
      start_batches=batches,
      mesh=sharding.make_mesh(MESH),
      reports_skipped=reports)
  skipped = {"skipped": 3.0} if reports else {}
  total = sum(range(3, 8)) + 1
  assert made.run(0.0).metrics == {"x": total / 7, **skipped}
  assert made.run(1.0).metrics == {"x": total / 7 + 1, **skipped}


def scores_of_codes(code_B, is_skipped_B=None):
  """The metrics of predictions that carry these codes and the number 1."""
  num_examples = len(code_B)
  batch = {"code": code_B}
  if is_skipped_B is not None:
    batch |= {"_mask": ~is_skipped_B, "_skipped": is_skipped_B}

  def predict(variables, batch):
    del variables
    return {"x": jnp.ones(num_examples), "code": batch["code"]}

  made = evaluation.Evaluation(
      config=types.SimpleNamespace(batch_size=8),
      # It would fail at a prediction that is no scalar.
      evaluator=mean.Mean(types.SimpleNamespace(num_examples=num_examples)),
      settings={}, predict=jax.jit(predict),
      start_batches=lambda: iter([batch]), mesh=sharding.make_mesh(MESH))
  scores = made.run(None)
  assert not scores.problem
  return scores.metrics


def test_words_per_code_is_the_mean_of_different_words():
  code_BL = np.zeros((8, 4), np.int32)
  assert scores_of_codes(code_BL) == {"x": 1.0, "words_per_code": 1.0}
  # One code of four words, one of two: (6 · 1 + 4 + 2) / 8.
  code_BL[0] = [3, 1, 2, 0]
  code_BL[1] = [5, 5, 0, 5]
  scores = scores_of_codes(code_BL)
  assert scores == {"x": 1.0, "words_per_code": 12 / 8}
  # A score stands first: it is what a report draws.
  assert list(scores) == ["x", "words_per_code"]


def test_words_per_code_leaves_out_what_was_skipped():
  code_BL = np.zeros((8, 4), np.int32)
  code_BL[0] = [3, 1, 2, 0]
  is_skipped_B = np.arange(8) > 1
  assert scores_of_codes(code_BL, is_skipped_B)["words_per_code"] == 5 / 2


def test_the_words_of_one_place_count_together():
  pairs_BL2 = np.zeros((8, 4, 2), np.int32)
  pairs_BL2[:, :, 1] = 5
  assert scores_of_codes(pairs_BL2)["words_per_code"] == 1
  # The places differ in their second word alone.
  pairs_BL2[:, :, 1] = [0, 5, 7, 5]
  assert scores_of_codes(pairs_BL2)["words_per_code"] == 3


def test_a_code_of_real_numbers_has_no_words():
  assert scores_of_codes(np.zeros((8, 4, 3), np.float32)) == {"x": 1.0}


def test_the_panel_shows_what_predictions_take(rooms_tiny_dir):
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  batch = panel_batch(config)
  assert not {"_mask", "_skipped"} & set(batch)
  assert batch["image/id"].dtype == np.uint32
  assert len(batch["image"]) == config.batch_size
  # They lie anywhere in the split; its first ones are often alike.
  split = splits.open_split(config.dataset, config.val_split, rooms_tiny_dir)
  first_ids = [split.example(index)["image/id"] for index in range(6)]
  assert batch["image/id"][:6].tolist() != first_ids
  assert len(set(batch["image/id"].tolist())) == config.batch_size
  del config.val_split
  assert panel_batch(config) is None


def panel_batch(config):
  config = resolve(config)
  return evaluation.panel_batch(config, make_family(config))
