"""A prediction can see what the evaluation shows."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from configs import (
    lm_imagenet_colorization,
    lm_nyu_depth,
    lm_rooms_depth,
    vqvae_nyu_depth,
)
from pp import builder
from uvim import resize
from uvim.inference import eval_crop, images
from uvim.registry import ConfigError

FRAME = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
TALL = np.random.default_rng(1).integers(0, 256, (101, 60, 3), np.uint8)


def as_evaluated(pp, frame):
  """The pixels that the model sees in an evaluation."""
  png = tf.io.encode_png(frame)
  ops = [op for op in pp.split("|") if op != "nyu_depth"]
  size = frame.shape[:2]
  example = builder.build("|".join(ops))({
      "image": png, "labels": tf.zeros([*size, 1])})
  return example["image"].numpy()


def as_predicted(pp, frame, path, size, **options):
  """The pixels that the model sees in a prediction of a file."""
  Image.fromarray(frame).save(path)
  part = eval_crop.of_run(pp).cut(images.read(path))
  return resize.to_model(part, size, **options)


@pytest.mark.parametrize("config, size", [
    (vqvae_nyu_depth, (192, 192)), (lm_nyu_depth, (192, 192))])
def test_the_model_sees_the_same_pixels(tmp_path, config, size):
  pp = config.get_config("runlocal").pp_eval
  expected = as_evaluated(pp, FRAME)
  found = as_predicted(pp, FRAME, tmp_path / "frame.png", size)
  np.testing.assert_array_equal(found, expected)
  # Of the whole frame, it would see other ones.
  whole = resize.to_model(FRAME, size)
  assert np.abs(whole - expected).max() > 0.1


def test_another_first_row(tmp_path):
  pp = "decode|nyu_eval_crop(top=54)|resize(64)|value_range(-1, 1)"
  found = as_predicted(pp, FRAME, tmp_path / "frame.png", (64, 64))
  np.testing.assert_array_equal(found, as_evaluated(pp, FRAME))


def test_the_middle_square(tmp_path):
  pp = lm_imagenet_colorization.get_config("runlocal").pp_eval
  expected = as_evaluated(pp, TALL)
  found = as_predicted(
      pp, TALL, tmp_path / "tall.png", expected.shape[:2], grey=True)
  # The op and `to_luma` round to 8 bits in other places.
  np.testing.assert_allclose(found, expected, atol=2.1 / 255)


def test_most_evaluations_show_all():
  crop = eval_crop.of_run(lm_rooms_depth.get_config().pp_eval)
  assert not crop
  assert crop.cut(TALL) is TALL
  assert not eval_crop.of_run("")


def test_what_cannot_be_cut():
  crop = eval_crop.of_run("decode|nyu_eval_crop|resize(64)")
  with pytest.raises(ConfigError, match="x.png: has 101×60 pixels; .* 480×640"):
    crop.cut(TALL, "x.png")
  crop = eval_crop.of_run("decode|central_crop((9, 9))|resize(64)")
  with pytest.raises(ConfigError, match="cuts with 'central_crop"):
    crop.cut(TALL)
