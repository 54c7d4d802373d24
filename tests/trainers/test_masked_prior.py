"""Stage II with masked words: it starts, learns, is scored and predicts."""

import functools

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files, tree
from uvim.registry import ConfigError

STYLE = {"style": "masked"}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
  """The path of a stage I checkpoint."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), path)
  return path


def test_it_starts_from_a_model_of_the_other_style(oracle):
  other = LmFamily(tiny.stage_ii_config(oracle))
  params, _ = jax.jit(other.init)(jax.random.key(1))
  path = oracle.with_name("autoregressive.npz")
  files.save_npz(path, {"params": params})
  family = LmFamily(tiny.stage_ii_config(oracle, STYLE, model_init=str(path)))
  initial = tiny.open_family(family).initial
  want = tree.flatten({"params": params})
  assert initial.keys() == want.keys()
  for name, value in initial.items():
    np.testing.assert_array_equal(value, want[name])


@pytest.mark.parametrize("style,option,words", [
    ("masked", "top_k", "style 'ar'; this prior has others: num_iter, temp"),
    ("ar", "num_iter", "style 'masked'; this prior has others: temperature"),
])
def test_options_of_the_other_style_are_told_apart(style, option, words):
  """As after --config.model.style=… of a config with evaluators."""
  family = LmFamily(tiny.stage_ii_config("none", {"style": style}))
  where = "config.uvim.pred_kw"
  with pytest.raises(ConfigError, match=f"{where}.{option} = 4 is.*{words}"):
    family.check_options("predict", {option: 4, "temperature": 0.0}, where)
  with pytest.raises(ConfigError, match=f"Unknown key '{where}.heat'"):
    family.check_options("predict", {"heat": 4}, where)


def test_it_learns_is_scored_and_predicts(oracle):
  family = LmFamily(tiny.stage_ii_config(oracle, STYLE))
  state, logs = tiny.run(family, mesh=[("data", 1)])
  # A fresh model holds every word for equally likely.
  assert logs[0]["masked_nll"] == pytest.approx(np.log(tiny.WORDS), rel=1e-5)
  assert logs[2]["loss"] < logs[0]["loss"]

  frozen = tiny.open_family(family).frozen
  variables = tiny.variables(family, state, frozen)
  scores = jax.eval_shape(family.eval_loss, variables, tiny.batch())
  assert set(scores) == {"loss", "masked_nll"}
  assert set(family.options("predict")) >= {"num_iter", "choice_temperature"}
  predict = functools.partial(family.predict, num_iter=2)
  outputs = jax.eval_shape(predict, variables, tiny.batch())
  assert outputs["code"].shape == (8, tiny.LENGTH)
