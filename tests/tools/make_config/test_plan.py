"""The choices that follow from what was measured."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from tools.bench import flops
from tools.make_config import cost, plan, recipe, survey
from tools.make_config.cost import Machine
from tools.make_config.survey import Facts, Segments, Splits
from trainers.families.vqvae import VqvaeFamily
from uvim.categories import Category
from uvim.registry import ConfigError

CATEGORIES = (Category(1, "road", False), Category(2, "car", True))
MACHINE = Machine("2 cores", 1e11, 1, 2)


def make_segments(**changes):
  segments = Segments(
      CATEGORIES, counts_M=np.array([3, 9]),
      thing_shares_S=np.array([0.001, 0.1, 0.2]), num_touching=0,
      is_stuff_merged=True, void_share=0.0)
  return dataclasses.replace(segments, **changes)


def make_facts(size=(240, 320), num_train=367, **changes):
  splits = Splits("train", "validation", num_train, 101, is_cut=False)
  return Facts("mine", None, splits, np.array([size] * 3), 0.002, **changes)


def make_plan(minutes=60, machine=MACHINE, **changes):
  facts = make_facts(**changes)
  return plan.make_plan(facts, machine, minutes)


# ── Task ────────────────────────────────────────────────────────────────────


def test_things_that_never_touch_are_regions_of_their_class():
  chosen = make_plan(segments=make_segments())
  assert chosen.task == survey.SEMANTIC
  assert chosen.classes == {"semantics": 3}
  assert chosen.task_options == {"things": (2,)}


@pytest.mark.parametrize("changes", [
    {"num_touching": 2}, {"is_stuff_merged": False}])
def test_segments_that_say_more_than_classes_are_instances(changes):
  chosen = make_plan(segments=make_segments(**changes))
  assert chosen.task == survey.PANOPTIC
  # Nine segments from 1, 0 for void, and some to spare.
  assert chosen.classes["instances"] >= 10


def test_depth_reaches_as_far_as_the_data():
  depths = survey.Depths(nearest=0.4, farthest=9.41, valid_share=0.7)
  chosen = make_plan(depths=depths)
  assert chosen.task == survey.DEPTH
  assert chosen.task_options["max_depth"] == 9.5
  assert plan.round_up(65.2) == 66
  assert plan.round_up(80.0) == 80
  assert plan.round_up(0.123) == 0.13


def test_images_alone_are_colored():
  assert make_plan().task == survey.COLORIZATION


def test_small_things_survive():
  assert plan.min_fraction(make_segments()) == recipe.MIN_FRACTION
  shares_S = np.linspace(0.00001, 0.00002, 50)
  small = plan.min_fraction(make_segments(thing_shares_S=shares_S))
  assert np.mean(shares_S > small) > 0.9
  none = make_segments(thing_shares_S=np.array([]))
  assert plan.min_fraction(none) == recipe.MIN_FRACTION


# ── Sizes ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [
    (240, 320), (1024, 2048), (427, 640), (640, 427), (64, 64), (100, 3000),
    (20, 20)])
def test_labels_have_the_aspect_of_the_images(size):
  height, width = size
  chosen = make_plan(size=size)
  rows, columns = chosen.grid
  label_height, label_width = chosen.label_size
  assert rows * columns <= 1.1 * recipe.NUM_PATCHES
  assert label_height * label_width <= 1.1 * height * width
  distortion = rows / columns / (height / width)
  assert 0.8 < distortion < 1.25


def test_camvid_has_the_grid_of_its_recipe():
  chosen = make_plan()
  assert chosen.label_size == (96, 128)
  assert chosen.encoder_size == (336, 448)


def test_upright_and_other_images_together_are_nearly_square():
  sizes_M2 = np.array([(300, 400), (400, 300)])
  _, (rows, columns) = plan.choose_grid(sizes_M2)
  assert abs(math.log(rows / columns)) < 0.1


# ── Lengths ─────────────────────────────────────────────────────────────────


def test_both_stages_take_the_time_that_they_have():
  chosen = make_plan(minutes=60, num_train=50_000)
  total = chosen.stage_i.minutes + chosen.stage_ii.minutes
  assert 45 < total <= 60
  longer = make_plan(minutes=600, num_train=50_000)
  assert longer.stage_i.total_steps > 8 * chosen.stage_i.total_steps
  for stage in (chosen.stage_i, chosen.stage_ii):
    assert stage.total_steps % stage.eval_steps == 0
    assert stage.checkpoint_steps <= stage.eval_steps
    assert stage.warmup_steps < stage.total_steps


def test_few_images_are_not_learned_by_heart():
  chosen = make_plan(minutes=6000, num_train=40)
  assert chosen.stage_i.is_capped
  assert chosen.stage_i.epochs <= recipe.MAX_EPOCHS_I


def test_too_little_time_still_gives_a_run():
  chosen = make_plan(minutes=1)
  assert chosen.stage_i.total_steps == recipe.MIN_STEPS
  with pytest.raises(ConfigError, match="--minutes: 0; allowed: above 0"):
    make_plan(minutes=0)


def test_a_batch_is_shared_by_all_devices():
  machine = dataclasses.replace(MACHINE, num_devices=6)
  chosen = make_plan(machine=machine)
  assert chosen.stage_i.batch_size == 12


def test_large_images_make_a_step_longer():
  quick = MACHINE.seconds_per_step(1e9, 8, decode_seconds=0.001)
  slow = MACHINE.seconds_per_step(1e9, 8, decode_seconds=0.2)
  assert slow - quick == pytest.approx(8 * 0.199 / 2)


def test_operations_are_those_of_the_traced_step():
  sizes = recipe.STAGE_I
  labels = {"semantics": (12, 64)}
  model = dict(
      sizes, input_size=(96, 128), patch_size=(8, 8), code_len=192,
      code_grid=(12, 16), inputs=labels, outputs=labels)
  config = tiny.stage_i_config(
      model=model, task="semantic_segmentation")
  family = VqvaeFamily(config)
  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  batch = {"image": np.zeros((8, 96, 128, 3), np.float32),
           "labels": np.zeros((8, 96, 128, 1), np.int32)}
  rngs_B = jax.random.split(jax.random.key(0), 8)

  def loss(params):
    value, _ = family.loss(params, extra_values, None, batch, rngs_B, 0)
    return value

  extra_values = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), extra)
  traced = jax.make_jaxpr(jax.grad(loss))(params)
  ours = cost.stage_i_flops(sizes, 192, 64, 12, 8)
  assert ours == pytest.approx(flops.count(traced), rel=0.25)
