"""J and F: cases worked out by hand, and the definition written out slowly."""

import itertools

import numpy as np
import pytest

from evaluators import davis
from tests.evaluators.clip_examples import (
  THINGS,
  frame,
  random_clips,
  score,
)
from uvim import pixels
from uvim.registry import ConfigError


def squares(*places, size=(12, 20)):
  """A map with squares of 4 × 4 pixels at (row, column), numbered from 1."""
  ids = np.zeros(size, int)
  for number, (row, column) in enumerate(places, start=1):
    ids[row:row + 4, column:column + 4] = number
  return ids


def on_road(ids, thing_class=1):
  """Classes and ids of things on stuff."""
  return np.where(ids > 0, thing_class, 3), np.where(ids > 0, ids, 90)


def test_perfect_proposals_of_any_ids_and_classes():
  truth = squares((2, 2), (2, 12))
  examples = [frame(0, *on_road(truth))] * 2
  classes, _ = on_road(truth, thing_class=2)
  renamed = np.choose(truth, [90, 0, 5])
  got = score("davis", examples, [(classes, renamed)] * 2)
  assert got == pytest.approx(dict.fromkeys(
      ("JF", "J_mean", "J_recall", "F_mean", "F_recall"), 100))


def test_a_shifted_square():
  examples = [frame(0, *on_road(squares((2, 2))))]
  got = score("davis", examples, [on_road(squares((2, 4)))])
  # 8 of 24 pixels are in both.
  assert got["J_mean"] == pytest.approx(100 / 3)
  assert got["J_recall"] == 0
  # A contour is a ring of 16 pixels. Near means within one pixel; so are four
  # of its top and of its bottom side, and two of the side in the middle.
  assert got["F_mean"] == pytest.approx(100 * 10 / 16)
  assert got["F_recall"] == 100


def test_ids_that_swap_half_way_lose_half():
  truth = squares((2, 2), (2, 12))
  swapped = np.choose(truth, [0, 2, 1])
  examples = [frame(0, *on_road(truth))] * 4
  maps = [on_road(ids) for ids in (truth, truth, swapped, swapped)]
  got = score("davis", examples, maps)
  assert got["J_mean"] == got["F_mean"] == got["J_recall"] == 50
  # In two clips, nothing is lost.
  examples = examples[:2] + [frame(1, *on_road(truth))] * 2
  assert score("davis", examples, maps)["JF"] == 100


def test_an_object_that_is_gone_wants_no_proposal():
  there = on_road(squares((2, 2)))
  gone = on_road(squares())
  examples = [frame(0, *there), frame(0, *gone)]
  assert score("davis", examples, [there, gone])["JF"] == 100
  assert score("davis", examples, [there, there])["JF"] == 50


def test_void_and_crowds_are_not_scored():
  semantics, ids = on_road(squares((2, 2), (2, 12)))
  hidden = semantics.copy()
  hidden[:, 4:6] = 0  # Half of the first square.
  example = frame(0, hidden, ids, crowds=[2])
  assert len(example["panoptic_objects"]["id"]) == 3
  first = squares((2, 2))
  half = first * (hidden > 0)
  for prediction in (on_road(first), on_road(half), (semantics, ids)):
    assert score("davis", [example], [prediction])["J_mean"] == 100


def slow_contour(mask):
  """Pixels of a mask's contour, one by one."""
  height, width = mask.shape
  contour = set()
  for row, column in itertools.product(range(height), range(width)):
    for below, right in ((0, 1), (1, 0), (1, 1)):
      neighbor = (row + below, column + right)
      is_inside = neighbor[0] < height and neighbor[1] < width
      if is_inside and mask[neighbor] != mask[row, column]:
        contour.add((row, column))
  return contour


def slow_share_near(contour, other, radius):
  """Share of a contour that is near another."""
  if not contour or not other:
    return float(not contour)
  points = np.array(sorted(contour))
  others = np.array(sorted(other))
  distances = np.linalg.norm(points[:, None] - others[None], axis=-1)
  return np.mean(distances.min(1) <= radius)


def slow_qualities(true_mask, mask):
  """J and F of one pair in one frame."""
  union = np.sum(true_mask | mask)
  region = np.sum(true_mask & mask) / union if union else 1.0
  radius = np.ceil(0.008 * np.hypot(*mask.shape))
  contour = slow_contour(mask)
  true_contour = slow_contour(true_mask)
  precision = slow_share_near(contour, true_contour, radius)
  recall = slow_share_near(true_contour, contour, radius)
  both = precision + recall
  return region, 2 * precision * recall / both if both else 0.0


def slow_clip(objects, proposals):
  """The best J and F [G, T, 2] of masks [G, T, H, W] and [P, T, H, W]."""
  table = np.array([
      [[slow_qualities(true_mask, mask)
        for true_mask, mask in zip(true_masks, masks, strict=True)]
       for masks in proposals] for true_masks in objects])
  best = None
  for chosen in itertools.permutations(range(len(proposals)), len(objects)):
    qualities = np.stack([table[number, place]
                          for number, place in enumerate(chosen)])
    if best is None or qualities.mean() > best.mean():
      best = qualities
  return best


def masks_of(maps):
  """Masks [ids, T, H, W] of maps of ids."""
  maps = np.stack(maps)
  return np.stack([maps == number for number in np.unique(maps) if number])


def slow_scores(examples, predictions, clip):
  objects = []
  proposals = []
  for example, (semantics, instances) in zip(
      examples, predictions, strict=True):
    if example["clip/id"] != clip:
      continue
    ids = pixels.ids_from_rgb(example["panoptic_image"])
    listed = example["panoptic_objects"]
    is_scored = np.isin(ids, listed["id"][~listed["is_crowd"]])
    is_thing = np.isin(ids, listed["id"][listed["label"] + 1 < 3])
    objects.append(ids * (is_scored & is_thing))
    is_proposal = np.isin(semantics, THINGS) & is_scored
    proposals.append((instances + 1) * is_proposal)
  return slow_clip(masks_of(objects), masks_of(proposals))


def test_equals_the_definition():
  examples, predictions = random_clips(0, num_frames=3)
  expected = np.concatenate([
      slow_scores(examples, predictions, clip) for clip in (0, 1)])
  region, contour = 100 * expected.mean((0, 1))
  got = score("davis", examples, predictions)
  assert 10 < region < 90
  assert got["J_mean"] == pytest.approx(region)
  assert got["F_mean"] == pytest.approx(contour)
  assert got["JF"] == pytest.approx((region + contour) / 2)
  found = 100 * np.mean(expected > 0.5, (0, 1))
  assert (got["J_recall"], got["F_recall"]) == pytest.approx(tuple(found))


def test_an_object_without_a_proposal_scores_nothing():
  truth = squares((2, 2), (2, 12))
  examples = [frame(0, *on_road(truth))]
  got = score("davis", examples, [on_road(squares((2, 2)))])
  assert got["J_mean"] == got["F_mean"] == 50
  nothing = np.full(truth.shape, 3)
  assert score("davis", examples, [(nothing, nothing)])["JF"] == 0


def test_the_border_of_the_image_is_no_contour():
  assert not davis.contour(np.ones((3, 4), bool)).any()


def test_no_object_is_one_line():
  road = np.full((4, 4), 3)
  with pytest.raises(ConfigError, match="none of 1 frames has an object"):
    score("davis", [frame(0, road, road)], [(road, road)])
