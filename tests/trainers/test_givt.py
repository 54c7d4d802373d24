"""Codes of real numbers: both stages train, predict and can be kept."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files
from uvim.registry import ConfigError

# Fields of a codebook that such a code has not.
ORACLE = {name: value for name, value in tiny.stage_i_model(
    quantizer="gaussian", codeword_dim=3, beta=1e-3,
    code_dropout="none").items() if name != "dict_size"}


def stage_i_config():
  return dataclasses.replace(tiny.stage_i_config(), model=ORACLE)


@pytest.fixture(scope="module")
def stage_ii(tmp_path_factory):
  """A family of stage II on an oracle of noise."""
  path = str(tmp_path_factory.mktemp("oracle") / "oracle.npz")
  rng = np.random.default_rng(0)
  files.save_npz(path, jax.tree.map(
      lambda spec: 0.2 * rng.normal(size=spec.shape).astype(spec.dtype),
      VqvaeFamily(stage_i_config()).wanted_arrays()))
  config = tiny.stage_ii_config(path)
  model = {**config.model, "style": "givt", "out_dim": 3}
  del model["vocab_size"]
  oracle = dataclasses.replace(config.oracle, model=ORACLE)
  return LmFamily(dataclasses.replace(config, model=model, oracle=oracle))


def test_stage_i_learns():
  family = VqvaeFamily(stage_i_config())
  state, logs = tiny.run(family, mesh=[("data", 1)])
  assert logs[2]["loss"] < logs[0]["loss"]
  assert logs[0]["code/kl"] > 0
  # Nobody counts words.
  assert not state.extra
  with pytest.raises(ConfigError, match="mask = 'random'.*'zeros'"):
    family.check_options("predict", {"mask": "random"}, "where")


def test_stage_ii_learns_and_predicts(stage_ii):
  state, logs = tiny.run(stage_ii, mesh=[("data", 1)])
  assert logs[2]["loss"] < logs[0]["loss"]
  frozen = tiny.open_family(stage_ii).frozen
  variables = tiny.variables(stage_ii, state, frozen)
  scores = jax.eval_shape(stage_ii.eval_loss, variables, tiny.batch())
  assert set(scores) == {"loss"}
  assert set(stage_ii.options("predict")) >= {"temp", "beam_size"}
  outputs = jax.eval_shape(stage_ii.predict, variables, tiny.batch())
  assert outputs["code"].shape == (8, tiny.LENGTH, 3)


def test_a_cache_gives_the_codes_of_a_run_without_one(stage_ii):
  frozen = tiny.open_family(stage_ii).frozen
  batch = tiny.batch()
  rngs_B = jax.random.split(jax.random.key(0), 8)
  targets = jax.jit(stage_ii.targets)
  written = jax.jit(stage_ii.oracle.written)(frozen, batch)
  assert written.shape == (8, tiny.LENGTH, 6)
  drawn = targets(frozen, batch, rngs_B)
  np.testing.assert_allclose(
      targets(frozen, {"code": written}, rngs_B), drawn, rtol=1e-5, atol=1e-6)
  # Training draws the numbers anew; evaluation takes the means.
  mean = targets(frozen, batch)
  np.testing.assert_allclose(mean, written[..., :3], rtol=1e-5, atol=1e-6)
  assert np.abs(drawn - mean).max() > 0.1


def test_words_and_numbers_do_not_mix(stage_ii):
  config = stage_ii.config
  words = dict(config.model, style="ar", vocab_size=9)
  del words["out_dim"]
  with pytest.raises(ConfigError, match="predicts words; the oracle's code"):
    LmFamily(dataclasses.replace(config, model=words))
