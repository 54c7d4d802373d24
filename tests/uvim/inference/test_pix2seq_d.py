"""Pix2Seq-D outside of the train loop: its answers, its steps, its mistakes."""

import functools
import json
import zlib

import jax
import numpy as np
import pytest

from uvim.cli import convert
from uvim.inference import predictor as predictor_lib
from uvim.inference.api import UViM
from uvim.inference.opening import open_predictor
from uvim.inference.pix2seq_d import Pix2SeqDPredictor, draw_strip
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError
from uvim.store import published

# All tests share what is compiled for these.
STEPS = dict(num_steps=2, min_fraction=0.01)


def photo(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def model(pix2seq_d_run):
  return open_predictor(pix2seq_d_run[0])


def mask_of(prediction, image=0, sample=0):
  return prediction.outputs["panoptic"][image][sample]


def test_it_predicts_what_the_averaged_parameters_say(model, pix2seq_d_run):
  _, family, extra = pix2seq_d_run
  image = photo(16, 16)
  seen = np.float32(image)[None] / 255 * 2 - 1
  prediction = model.predict(seen[0], num_samples=2, seed=7, **STEPS)
  # A sample has its number for an id, below the seed of its image.
  pixels = np.ascontiguousarray(seen, "<f4")
  of_image = example_seeds(np.uint32([zlib.crc32(pixels)]), 7)[0]
  variables = {"params": extra["ema"]}
  predict = jax.jit(functools.partial(family.predict, **STEPS))
  for sample in (0, 1):
    batch = {"image": seen, "image/id": np.uint32([sample])}
    expected = predict(variables, batch, seed=of_image)
    mask = mask_of(prediction, sample=sample)
    np.testing.assert_array_equal(mask, expected["panoptic"][0])
    assert len(np.unique(mask[..., 1])) > 1
  assert prediction.codes is None and prediction.logprob is None


def test_each_image_has_one_answer_at_its_own_size(model):
  photos = [photo(20, 31), photo(50, 9, 1)]
  together = model.predict(photos[::-1], num_samples=2, seed=4, **STEPS)
  alone = model.predict(photos[0], num_samples=3, seed=4, **STEPS)
  shapes = [masks.shape for masks in together.outputs["panoptic"]]
  assert shapes == [(2, 50, 9, 2), (2, 20, 31, 2)]
  # The first samples are the same however many there are.
  np.testing.assert_array_equal(
      together.outputs["panoptic"][1], alone.outputs["panoptic"][0][:2])
  assert not np.array_equal(mask_of(alone), mask_of(alone, sample=1))
  other_seed = model.predict(photos[0], seed=5, **STEPS)
  assert not np.array_equal(mask_of(other_seed), mask_of(alone))
  assert alone.settings == {
      "num_steps": 2, "min_fraction": 0.01, "time_difference": 1.0,
      "sampler": "ddim", "seed": 4, "num_samples": 3}


def test_a_batch_gives_the_masks_of_each_image(model):
  images = [photo(20, 31), photo(50, 9, 1), photo(8, 9, 2)]
  options = dict(num_samples=2, seed=4, **STEPS)
  one_by_one = model.predict(images, batch_size=1, **options)
  # Two images, and one with a place that is padded.
  together = model.predict(images, batch_size=4, **options)
  pairs = zip(one_by_one.outputs["panoptic"], together.outputs["panoptic"],
              strict=True)
  for alone, in_batch in pairs:
    assert alone.shape == in_batch.shape
    assert np.mean(alone != in_batch) < 0.01


def test_a_film_ends_at_the_answer(model):
  image = photo(20, 31)
  film = model.predict_steps(image, seed=4, **STEPS)
  assert [step.number for step in film] == [1, 2]
  answer = model.predict(image, seed=4, **STEPS)
  np.testing.assert_array_equal(mask_of(film[-1].estimate), mask_of(answer))
  # It begins at noise, in which void pixels have no ids.
  noise = mask_of(film[0].noisy)
  assert noise.shape == (20, 31, 2) and len(np.unique(noise[..., 0])) == 5
  assert not noise[noise[..., 0] == 0].any()
  assert not np.array_equal(mask_of(film[1].noisy), noise)
  drawn = film[0].estimate.pictures()[0]
  assert drawn.shape == (1, 20, 31, 3) and drawn.dtype == np.uint8
  strip = draw_strip(film, height=40)
  # Two masks of 62 × 40 pixels beside each other, two below each other.
  assert strip.width > 2 * 62 and 2 * 40 < strip.height < 3 * 40
  last, = model.predict_steps(image, steps=[2], seed=4, **STEPS)
  np.testing.assert_array_equal(mask_of(last.noisy), mask_of(film[1].noisy))
  np.testing.assert_array_equal(mask_of(last.estimate), mask_of(answer))


def test_a_prediction_is_drawn_and_saved_as_one_of_uvim(model, tmp_path):
  prediction = model.predict(photo(20, 31), num_samples=2, **STEPS)
  assert prediction.plot().width > 2 * 31
  assert prediction.overlay().size == (31, 20) or prediction.overlay()
  names = {segment.name for segment in prediction.segments[0]}
  assert names and names <= {"cup", "sea", "sky", "box"}
  assert all(segment.score in (0, 1) for segment in prediction.segments[0])
  prediction.save(tmp_path, names=["a"])
  summary = json.loads((tmp_path / "predictions.json").read_text())
  assert summary["settings"]["num_steps"] == 2
  assert "codes" not in json.dumps(summary)
  assert (tmp_path / "sample1" / "panoptic" / "a.png").exists()
  with pytest.raises(ConfigError, match="no code, so nothing tells"):
    prediction.best()


@pytest.mark.parametrize("options, words", [
    ({"temperature": 1.0}, "Pix2Seq-D has no such option. It has: num_steps"),
    ({"num_steps": 0}, "options.num_steps = 0; it must be an integer in 1"),
    ({"sampler": "ddmi"}, "it must be one of ddim, ddpm"),
    ({"min_fraction": 1}, "options.min_fraction = 1"),
    ({"seed": -1}, "seed = -1"), ({"num_samples": 0}, "num_samples = 0"),
])
def test_a_mistake_is_named(model, options, words):
  with pytest.raises(ConfigError, match=words) as caught:
    model.predict(photo(4, 4), **options)
  assert "\n" not in str(caught.value)


def test_only_steps_of_one_image_are_shown(model):
  with pytest.raises(ConfigError, match="2 images; the steps of one"):
    model.predict_steps([photo(4, 4)] * 2, **STEPS)
  with pytest.raises(ConfigError, match=r"steps = \[3\].*num_steps = 2"):
    model.predict_steps(photo(4, 4), steps=[3], **STEPS)


def test_the_kind_of_the_run_decides_what_is_opened(model, pix2seq_d_run):
  workdir = pix2seq_d_run[0]
  assert isinstance(model, Pix2SeqDPredictor) and model.kind == "pix2seq_d"
  assert [row.name for row in model.categories] == ["cup", "sea", "sky", "box"]
  assert isinstance(model, predictor_lib.Predictor)
  with pytest.raises(ConfigError, match="kind 'pix2seq_d'"):
    UViM.from_checkpoint(workdir)
  with pytest.raises(ConfigError, match="lm = 'two.npz'.*Leave it out"):
    open_predictor(workdir, lm="two.npz")
  packed = published.PACKS["uvim-rooms-panoptic"]
  with pytest.raises(ConfigError, match="a run of kind 'lm'; a run of kind"):
    Pix2SeqDPredictor.from_checkpoint(packed)
  with pytest.raises(ConfigError, match="no run's workdir and no pack"):
    Pix2SeqDPredictor.from_checkpoint(workdir / "config.json")


def test_bare_arrays_do_not_tell_the_network(pix2seq_d_run, tmp_path):
  path = str(tmp_path / "bare.npz")
  kind, specs = convert.convert(str(pix2seq_d_run[0]), path)
  assert kind == convert.kind_of_arrays(specs) == "pix2seq_d"
  with pytest.raises(ConfigError, match="of pix2seq_d, and no array tells"):
    open_predictor(path)
