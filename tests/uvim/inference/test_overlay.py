"""Predictions for people: segments, names, outlines, legends."""

import numpy as np
import pytest
from PIL import Image

from uvim import palette
from uvim.categories import Category
from uvim.inference import legend, overlay
from uvim.inference.prediction import Prediction
from uvim.registry import ConfigError
from uvim.tasks import make_task

SIZE = (8, 12)
CATEGORIES = (Category(7, "cup", True), Category(90, "sky", False))
IMAGE = np.full((*SIZE, 3), 100, np.uint8)


def make(name, spec):
  return make_task(name, dict(
      inputs=spec, outputs=spec, input_size=SIZE, patch_size=(4, 4)))


@pytest.fixture(scope="module")
def panoptic():
  return make("panoptic_segmentation",
              {"semantics": (3, 16), "instances": (4, 16)})


@pytest.fixture(scope="module")
def depth():
  return make("depth", {"depth": (4, 16)})


def two_cups_and_sky():
  """Two cups of 2×3 pixels in the sky, whose last column is void."""
  pairs = np.zeros((*SIZE, 2), np.int32)
  pairs[:, :-1] = (2, 3)
  pairs[1:3, 1:4] = (1, 1)
  pairs[5:7, 1:4] = (1, 2)
  return pairs


def predict(task, samples, categories=CATEGORIES, logprob=None):
  return Prediction(
      task, [IMAGE], {task.output_keys[0]: [np.stack(samples)]}, None, logprob,
      {}, categories)


def test_segments_tell_class_name_area_and_mask(panoptic):
  pairs = two_cups_and_sky()
  [segments] = predict(panoptic, [pairs]).segments
  told = [(x.id, x.class_id, x.name, x.is_thing, x.score, x.area)
          for x in segments]
  assert told == [(1, 1, "cup", True, None, 6), (2, 1, "cup", True, None, 6),
                  (3, 2, "sky", False, None, 8 * 11 - 12)]
  np.testing.assert_array_equal(segments[1].mask, pairs[..., 1] == 2)
  assert len(repr(segments)) < 500  # No arrays.


def test_the_score_is_the_share_of_samples_that_agree(panoptic):
  first = two_cups_and_sky()
  gone = first.copy()
  gone[1:3, 1:4] = (2, 3)  # The first cup is sky.
  moved = first.copy()
  moved[..., 1] = moved[..., 1] % 3 + 1  # Other numbers, the same segments.
  half = first.copy()
  half[5:7, 3] = (2, 3)
  half[6, 2] = (2, 3)  # Three of the second cup's six pixels: IoU 0.5.
  [segments] = predict(panoptic, [first, gone, moved, half]).segments
  assert [x.score for x in segments] == pytest.approx([2 / 3, 2 / 3, 1])


def test_the_segments_are_those_of_the_likeliest_sample(panoptic):
  pairs = two_cups_and_sky()
  empty = np.zeros_like(pairs)
  logprob = np.array([[[-3.0], [-1.0]]])
  [segments] = predict(panoptic, [empty, pairs], logprob=logprob).segments
  assert [x.score for x in segments] == [0, 0, 0]


def test_classes_that_nobody_knows_have_no_name(panoptic):
  [segments] = predict(panoptic, [two_cups_and_sky()], ()).segments
  assert {(x.name, x.is_thing) for x in segments} == {(None, None)}


def test_depth_has_no_segments(depth):
  with pytest.raises(ConfigError, match="depth has no segments"):
    len(predict(depth, [np.ones(SIZE)]).segments)


def test_the_text_of_a_prediction_is_short(panoptic):
  text = repr(predict(panoptic, [two_cups_and_sky()] * 2))
  assert text == ("Prediction(panoptic, images: 1, samples: 2, "
                  "height×width: 8×12)")


def test_an_overlay_mixes_class_and_image_and_leaves_void(panoptic):
  pairs = two_cups_and_sky()
  pairs[..., 0] = np.where(pairs[..., 0] == 1, 0, pairs[..., 0])
  drawn = np.asarray(overlay.draw(
      panoptic, {"panoptic": pairs}, (80, 120), photo=np.full(
          (80, 120, 3), 100, np.uint8)))
  sky = palette.class_color(2)
  np.testing.assert_allclose(drawn[75, 5], 0.55 * sky + 45, atol=1)
  np.testing.assert_array_equal(drawn[5, 115], 100)
  assert (drawn[:, 110] == 255).all()  # The outline before the void column.


def test_larger_segments_have_names_and_small_ones_do_not():
  ids = np.ones((200, 300), np.int32)
  ids[:10, :10] = 2
  image = Image.new("RGB", (300, 200))
  overlay.write_names(image, ids, ["sky", "cup"])
  drawn = np.asarray(image).any(-1)
  assert drawn[80:120, 120:180].any()
  assert not drawn[:20, :40].any()


def test_a_name_stays_within_the_image():
  ids = np.zeros((100, 300), np.int32)
  ids[20:80, 292:] = 1
  image = Image.new("RGB", (300, 100))
  overlay.write_names(image, ids, ["a very long name"])
  # Narrower than its name, and still all of it is there.
  columns = np.flatnonzero(np.asarray(image).any((0, 2)))
  assert columns[0] > 100 and columns[-1] - columns[0] > 60


@pytest.mark.parametrize("over, beside, tiles", [
    (False, True, 2), (True, False, 1), (True, True, 2)])
def test_pictures_have_a_legend_below(panoptic, over, beside, tiles):
  picture = overlay.draw_picture(
      panoptic, {"panoptic": two_cups_and_sky()}, IMAGE,
      categories=CATEGORIES, overlay=over, side_by_side=beside)
  drawn = np.asarray(picture)
  assert drawn.shape[1] == tiles * 480 + (tiles - 1) * 6
  below = drawn[326:]
  for number in (1, 2):
    is_patch = (below == palette.class_color(number)).all(-1)
    assert is_patch.any()


def test_names_that_do_not_fit_go_to_the_next_line():
  one = legend.draw_names([1, 2], CATEGORIES, width=300)
  two = legend.draw_names([1, 2], CATEGORIES, width=70)
  assert one.size == (300, 18) and two.size == (70, 36)
  assert legend.draw_names([], CATEGORIES, width=70) is None


def test_depth_has_a_bar_with_its_colors(depth):
  bar = np.asarray(legend.draw_bar(depth, width=200))
  near, far = palette.depth_colors(np.array([0.001, 10]), 0.001, 10)
  np.testing.assert_array_equal(bar[0, 0], near)
  np.testing.assert_array_equal(bar[0, -1], far)
  # Five numbers below it.
  is_text = bar[14:].min((0, 2)) < 128
  for place in (12, 50, 100, 150, 188):
    assert is_text[place - 12:place + 12].any()
