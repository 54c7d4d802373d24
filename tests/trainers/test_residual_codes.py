"""Codes of several words a place, through both stages and `UViM`."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.inference import readings
from uvim.inference.api import UViM
from uvim.registry import ConfigError
from uvim.store import pack

FIELDS = dict(quantizer="residual", num_quantizers=2)
SHAPE = (tiny.LENGTH, 2)
# Both words of the first place, and the second word of the last.
GIVEN = np.array([[5, 2], [-1, -1], [-1, -1], [-1, 7]])


def stage_ii_config(oracle, **lm):
  config = tiny.stage_ii_config(
      oracle, dict(seq_len=2 * tiny.LENGTH, num_quantizers=2) | lm)
  model = tiny.stage_i_model(**FIELDS)
  return dataclasses.replace(
      config, oracle=dataclasses.replace(config.oracle, model=model))


def noise_like(shapes, seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda x: rng.normal(0, 0.5, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
  """A pack of stage I with arrays of noise."""
  folder = tmp_path_factory.mktemp("residual")
  config = tiny.stage_i_config(FIELDS)
  arrays = noise_like(VqvaeFamily(config).wanted_arrays(), 0)
  pack.write_stage(folder, config.to_json(), arrays, version="0")
  return folder


@pytest.fixture(scope="module")
def stage_ii(oracle):
  """(family, variables) of stage II with arrays of noise."""
  family = LmFamily(stage_ii_config(oracle))
  params = noise_like(family.wanted_arrays()["params"], 1)
  frozen = tiny.open_family(family).frozen
  return family, family.variables(params, {}, frozen)


def test_stage_ii_learns_all_words_of_the_oracle(oracle):
  family = LmFamily(stage_ii_config(oracle))
  frozen = tiny.open_family(family).frozen
  code = jax.jit(family.targets)(frozen, tiny.batch())
  assert code.shape == (8, *SHAPE)
  state, logs = tiny.run(family, steps=1, mesh=[("data", 1)])
  # A new model finds all words of a place equally likely.
  assert logs[0]["loss"] == pytest.approx(np.log(tiny.WORDS + 1), rel=1e-3)
  # A loss is of a word, and a code has two for each place.
  metrics = family.prior.metrics(np.float32([3.0]))
  assert metrics["nats_per_code"] == 3 * 2 * tiny.LENGTH
  usage = state.extra["usage"].reshape(2, tiny.WORDS)
  for depth in (0, 1):
    counts = np.bincount(code[..., depth].ravel(), minlength=tiny.WORDS)
    np.testing.assert_array_equal(usage[depth], counts)


def test_drawn_codes_are_as_likely_as_they_are_said_to_be(stage_ii):
  family, variables = stage_ii
  params, image = variables["params"], tiny.batch()["image"]
  given = np.tile(GIVEN, (8, 1, 1))
  samples = family.prior.sample(
      params, image, np.arange(8), num_samples=2, given=given,
      temperature=1.0)
  assert samples.code.shape == (8, 2, *SHAPE)
  assert samples.logprob.shape == (8, 2, tiny.LENGTH)
  code = np.asarray(samples.code)
  np.testing.assert_array_equal(
      code, np.where(given[:, None] >= 0, given[:, None], code))
  logprob = jax.jit(family.prior.log_prob)(params, image, code[:, 1])
  np.testing.assert_allclose(
      samples.logprob[:, 1], logprob, rtol=1e-4, atol=1e-4)
  # A place that is all given is sure; of the others these are not.
  dropped = readings.unsure_words(samples, 1.0, given)
  assert np.array_equal(dropped[0, 0], [False, True, True, True])
  with pytest.raises(ConfigError, match=r"shape \(8, 8\); must be \(8, 4, 2\)"):
    family.prior.check_given(given.reshape(8, -1), 8)


def test_masked_words_are_those_of_any_depth(oracle):
  prior = LmFamily(stage_ii_config(oracle, style="masked")).prior
  params = noise_like(jax.eval_shape(prior.init, jax.random.key(0)), 1)
  given = np.tile(GIVEN, (8, 1, 1))
  samples = prior.sample(
      params, tiny.batch()["image"], np.arange(8), given=given, num_iter=2)
  code = np.asarray(samples.code[:, 0])
  assert code.shape == (8, *SHAPE) and code.min() >= 0
  np.testing.assert_array_equal(code, np.where(given >= 0, given, code))
  loss_B, _ = jax.jit(prior.loss)(params, tiny.batch()["image"], code)
  assert np.isfinite(loss_B).all()


def test_uvim_decodes_and_drops_whole_places(oracle):
  uvim = UViM.from_checkpoint(oracle)
  image = tiny.batch()["image"][:1]
  codes = np.random.default_rng(0).integers(0, tiny.WORDS, (1, *SHAPE))
  whole = uvim.decode(image, codes).outputs["panoptic"][0]
  nothing = uvim.decode(image, uvim.mask_codes(codes)).outputs["panoptic"][0]
  assert (whole != nothing).any()
  # Of a place that lacks one word, the other one does not matter either.
  broken = np.stack([codes[..., 0], np.full((1, 4), -1)], -1)
  dropped = uvim.decode(image, broken).outputs["panoptic"][0]
  np.testing.assert_array_equal(dropped, nothing)
  random = uvim.mask_codes(codes, (0, 0, 1, 1), "random", seed=1)
  assert random.shape == codes.shape
  np.testing.assert_array_equal(random[:, 1:], codes[:, 1:])
  with pytest.raises(ConfigError, match=r"allowed: \[1, 4, 2\], \[1, S, 4, 2"):
    uvim.decode(image, codes[..., 0])


def test_sizes_must_be_those_of_the_oracle(oracle):
  for lm, message in (
      (dict(num_quantizers=1), "num_quantizers = 1, but .* code needs 2"),
      (dict(seq_len=4), "seq_len = 4, but the oracle's code needs 8"),
      (dict(seq_len=7), "num_quantizers = 2; it must divide seq_len = 7"),
      (dict(code_grid=(2, 4)), "has 8 places; seq_len = 8 has 4")):
    with pytest.raises(ConfigError, match=message):
      LmFamily(stage_ii_config(oracle, **lm))
