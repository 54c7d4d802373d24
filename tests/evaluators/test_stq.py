"""STQ: cases worked out by hand, and the definition written out slowly."""

import numpy as np
import pytest

from tests.evaluators.clip_examples import (
  THINGS,
  frame,
  random_clips,
  score,
)
from uvim import pixels
from uvim.registry import ConfigError

ONES = np.ones((4, 6), int)


def halves(left, right):
  """A map [4, 6] of two values."""
  both = left * ONES
  both[:, 3:] = right
  return both


def test_perfect_tracks_of_any_ids():
  examples = [frame(0, halves(1, 3), halves(9, 4))] * 3
  predictions = [(halves(1, 3), halves(70, 2))] * 3
  assert score("stq", examples, predictions) == pytest.approx(
      {"STQ": 100, "AQ": 100, "SQ": 100})


def test_a_new_id_half_way_halves_the_association():
  examples = [frame(0, halves(1, 3), halves(9, 4))] * 4
  predictions = [(halves(1, 3), halves(number, 0)) for number in (1, 1, 2, 2)]
  # Each predicted track shares half of the true one: 2 · ½ · ½.
  assert score("stq", examples, predictions) == pytest.approx(
      {"STQ": 100 * np.sqrt(0.5), "AQ": 50, "SQ": 100})
  # Tracks end with their clip.
  examples = examples[:2] + [frame(1, halves(1, 3), halves(9, 4))] * 2
  assert score("stq", examples, predictions)["AQ"] == pytest.approx(100)


def test_a_wrong_thing_class_costs_no_association():
  examples = [frame(0, halves(1, 3), halves(9, 4))]
  got = score("stq", examples, [(halves(2, 3), halves(9, 4))])
  # Of car, person and road, only road is right.
  assert got["AQ"] == pytest.approx(100)
  assert got["SQ"] == pytest.approx(100 / 3)


def test_void():
  semantics = halves(1, 0)
  examples = [frame(0, semantics, halves(9, 0))]
  # On void of the truth, a class costs nothing; a track does.
  got = score("stq", examples, [(1 * ONES, 9 * ONES)])
  assert got["SQ"] == pytest.approx(100)
  assert got["AQ"] == pytest.approx(50)
  # Void in the place of a class is a class of its own, with an IoU of 0.
  examples = [frame(0, halves(1, 3), halves(9, 4))]
  got = score("stq", examples, [(halves(1, 0), halves(9, 0))])
  assert got["SQ"] == pytest.approx(100 / 3)


def test_crowds_have_no_tracks():
  examples = [frame(0, halves(1, 1), halves(9, 4), crowds=[4])]
  got = score("stq", examples, [(halves(1, 1), halves(9, 9))])
  assert got == pytest.approx({"STQ": 100, "AQ": 100, "SQ": 100})


def tracks_of(examples, predictions, clip):
  """True and predicted tracks of a clip, [T, H, W], −1 where there is none."""
  true_maps = []
  predicted_maps = []
  for example, (semantics, instances) in zip(
      examples, predictions, strict=True):
    if example["clip/id"] != clip:
      continue
    true_map = pixels.ids_from_rgb(example["panoptic_image"])
    predicted_map = np.where(
        np.isin(semantics, THINGS), 100 * semantics + instances, -1)
    objects = example["panoptic_objects"]
    for number, label, is_crowd in zip(
        objects["id"], objects["label"], objects["is_crowd"], strict=True):
      mask = true_map == number
      if label + 1 not in THINGS:
        true_map[mask] = -1
      elif is_crowd:
        true_map[mask] = -1
        predicted_map[mask] = -1
    true_maps.append(np.where(true_map == 0, -1, true_map))
    predicted_maps.append(predicted_map)
  return np.stack(true_maps), np.stack(predicted_maps)


def slow_association(examples, predictions):
  qualities = []
  for clip in {int(example["clip/id"]) for example in examples}:
    true_maps, predicted_maps = tracks_of(examples, predictions, clip)
    for true in set(true_maps.ravel()) - {-1}:
      quality = 0.0
      for predicted in set(predicted_maps.ravel()) - {-1}:
        of_true = true_maps == true
        of_predicted = predicted_maps == predicted
        shared = np.sum(of_true & of_predicted)
        quality += shared * shared / np.sum(of_true | of_predicted)
      qualities.append(quality / np.sum(true_maps == true))
  return np.mean(qualities)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_definition(seed):
  examples, predictions = random_clips(seed)
  got = score("stq", examples, predictions)
  assert 10 < got["AQ"] < 90
  assert got["AQ"] == pytest.approx(
      100 * slow_association(examples, predictions))
  assert got["STQ"] == pytest.approx(np.sqrt(got["AQ"] * got["SQ"]))


def test_stills_and_predictions_out_of_range_are_refused():
  example = frame(0, ONES, ONES)
  with pytest.raises(ConfigError, match="classes up to 3"):
    score("stq", [example], [(4 * ONES, ONES)])
  del example["clip/id"]
  with pytest.raises(ConfigError, match="no 'clip/id'; it needs frames"):
    score("stq", [example], [(ONES, ONES)])
  void = frame(0, 0 * ONES, 0 * ONES)
  with pytest.raises(ConfigError, match="nothing to measure"):
    score("stq", [void], [(ONES, ONES)])
