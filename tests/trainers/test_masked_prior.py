"""Stage II with masked words: it starts, learns, is scored and predicts."""

import functools

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files, tree

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
