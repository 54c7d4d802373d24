"""Readings on made-up samples: what is kept, and what is averaged."""

import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tasks
from uvim.codes.base import CodeSpec
from uvim.inference import readings
from uvim.priors.base import Samples
from uvim.registry import ConfigError

# Three samples of two images, four places each.
CODE = np.arange(24).reshape(2, 3, 4)
PROBABILITY = np.linspace(0.1, 0.9, 24, dtype=np.float32).reshape(2, 3, 4)
SAMPLES = Samples(code=CODE, logprob=np.log(PROBABILITY))


@pytest.fixture(scope="module")
def depth():
  spec = {"depth": (8, 16)}
  return tasks.make_task("depth", dict(
      inputs=spec, outputs=spec, input_size=(4, 4), patch_size=(4, 4)))


@pytest.fixture(scope="module")
def outputs():
  """Depths [S, B, H, W]: of image 0 sample 1 lies between the others."""
  levels_SB = np.array([[1.0, 4.0], [2.0, 1.0], [4.0, 3.0]], np.float32)
  depth_SBHW = jnp.asarray(levels_SB)[..., None, None] + jnp.zeros((4, 4))[
      None, None]
  return {"depth": depth_SBHW}


def test_a_mean_keeps_all_codes_and_no_likelihood(depth, outputs):
  answer = readings.reduce_samples(depth, outputs, "mean")
  np.testing.assert_allclose(
      answer.outputs["depth"], outputs["depth"].mean(0), rtol=1e-6)
  made_of = readings.samples_of(answer, SAMPLES)
  np.testing.assert_array_equal(made_of.code, CODE)
  assert made_of.logprob is None


def test_agreement_of_numbers_keeps_the_sample_in_the_middle(depth, outputs):
  answer = readings.reduce_samples(depth, outputs, "agreement")
  assert answer.chosen.tolist() == [1, 2]
  assert answer.outputs["depth"][:, 0, 0].tolist() == [2.0, 3.0]
  made_of = readings.samples_of(answer, SAMPLES)
  np.testing.assert_array_equal(made_of.code[:, 0], CODE[[0, 1], [1, 2]])
  np.testing.assert_array_equal(
      made_of.logprob[:, 0], SAMPLES.logprob[[0, 1], [1, 2]])


def test_only_the_likeliest_is_read_where_only_it_counts():
  assert readings.samples_to_read(SAMPLES, "agreement") is SAMPLES
  kept = readings.samples_to_read(SAMPLES, "likelihood")
  np.testing.assert_array_equal(kept.code, CODE[:, 2:])
  with pytest.raises(ConfigError, match="gives no likelihoods"):
    readings.samples_to_read(SAMPLES.replace(logprob=None), "likelihood")


def test_unsure_words_are_those_below_and_never_given_ones():
  assert readings.unsure_words(SAMPLES, None) is None
  unsure = readings.unsure_words(SAMPLES, 0.5)
  np.testing.assert_array_equal(unsure, PROBABILITY < 0.5)
  given = np.full((2, 4), -1)
  given[0, 1] = 5
  unsure = np.asarray(readings.unsure_words(SAMPLES, 0.5, given))
  assert not unsure[0, :, 1].any() and unsure[0, :, 0].all()
  with pytest.raises(ConfigError, match="this prior gives no prob"):
    readings.unsure_words(SAMPLES.replace(logprob=None), 0.5)


def test_codes_without_words_and_with_several(depth):
  numbers = CodeSpec(4, None, 1, 8)
  with pytest.raises(ConfigError, match="drop_below = 0.1; .*have no words"):
    readings.check({"drop_below": 0.1}, task=depth, spec=numbers)
  several = CodeSpec(4, 16, 3, 8)
  with pytest.raises(ConfigError, match="soft_words: .*has 3 words"):
    readings.check({"soft_words": 1.0}, task=depth, spec=several)
  readings.check({"drop_below": 0.1, "reduce": "mean"}, task=depth,
                 spec=several)
