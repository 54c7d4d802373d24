"""Readings of an answer, as evaluators score them."""

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from tests.uvim.tasks.test_agreement import quality_by_loops
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.registry import ConfigError

NUM_SAMPLES = 3


@pytest.fixture(scope="module")
def family(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "one.npz"
  tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), path)
  return LmFamily(tiny.stage_ii_config(path))


@pytest.fixture(scope="module")
def variables(family):
  params, _ = jax.eval_shape(family.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  # As they are at first, all words would be equally likely.
  params = jax.tree.map(
      lambda x: rng.normal(0, 0.4, x.shape).astype(x.dtype), params)
  frozen = tiny.open_family(family).frozen
  return jax.device_put(family.variables(params, {}, frozen))


@pytest.fixture(scope="module")
def predict(family, variables):
  """(name, **options) → the prediction of one batch."""
  compiled = Compiled(family)

  def predict(name="predict", **options):
    family.check_options(name, options, "config.evals.pred_kw")
    return jax.device_get(compiled(name, **options)(variables, tiny.batch()))

  return predict


def test_words_that_are_dropped_say_nothing(predict):
  everything = predict(drop_below=0.999)["panoptic"]
  np.testing.assert_array_equal(everything, predict("zero_code")["panoptic"])
  got = predict(drop_below=0.0)
  want = predict()
  for name in ("panoptic", "code"):
    np.testing.assert_array_equal(got[name], want[name])
  some = predict(drop_below=0.25)
  np.testing.assert_array_equal(some["code"], want["code"])
  assert (some["panoptic"] != everything).any()
  assert (some["panoptic"] != want["panoptic"]).any()


def test_soft_words_change_what_f_reads_and_not_the_code(predict):
  hard = predict()
  soft = predict(soft_words=1.0)
  np.testing.assert_array_equal(soft["code"], hard["code"])
  assert (soft["panoptic"] != hard["panoptic"]).any()
  cold = predict(soft_words=0.001)
  assert (cold["panoptic"] == hard["panoptic"]).mean() > 0.99
  # Dropped places say nothing, whether words are soft or not.
  dropped = predict(soft_words=1.0, drop_below=0.999, mask="zeros")["panoptic"]
  np.testing.assert_array_equal(dropped, predict("zero_code")["panoptic"])


@pytest.fixture(scope="module")
def samples(family, variables):
  """The `Samples` of the batch, and f's outputs for each, [S, B, H, W, 2]."""
  @jax.jit
  def draw(variables):
    return family.draw(variables, tiny.batch(), temperature=1.0,
                       num_samples=NUM_SAMPLES)

  @jax.jit
  def read(variables, code):
    logits = family.oracle.decode(variables["frozen"], code, tiny.batch())
    return family.task.outputs(logits)["panoptic"]

  drawn = draw(variables)
  outputs = [read(variables, drawn.code[:, s]) for s in range(NUM_SAMPLES)]
  return jax.device_get(drawn), np.stack(outputs)


def test_one_answer_of_several_samples(predict, samples):
  drawn, outputs = samples
  likeliest = drawn.logprob.sum(-1).argmax(1)
  agreeing = []
  for i in range(len(likeliest)):
    maps = outputs[:, i]
    sums = [sum(quality_by_loops(one, other) for other in maps)
            for one in maps]
    agreeing.append(int(np.argmax(sums)))
  chosen = {"likelihood": likeliest, "agreement": agreeing}
  for name, expected in chosen.items():
    got = predict(temperature=1.0, num_samples=NUM_SAMPLES, reduce=name)
    for i, s in enumerate(expected):
      np.testing.assert_array_equal(got["panoptic"][i], outputs[s][i])
      np.testing.assert_array_equal(got["code"][i], drawn.code[i, s])
  assert set(likeliest) != {0} and set(agreeing) != {0}


def test_samples_are_the_answers_that_reduce_chooses_from(predict, samples):
  _, outputs = samples
  got = predict("samples", temperature=1.0, num_samples=NUM_SAMPLES)
  np.testing.assert_array_equal(got["panoptic"], outputs.swapaxes(0, 1))
  with pytest.raises(ConfigError, match="pred_kw.reduce' = 'likelihood'"):
    predict("samples", num_samples=2, reduce="likelihood")


def test_without_a_prior_samples_are_drawn_pixel_by_pixel(family, variables):
  """As often as f says, and the same for an image whatever its batch is."""
  oracle = family.oracle
  frozen = variables["frozen"]
  batch = tiny.batch()
  num_samples = 300

  @jax.jit
  def draw(batch):
    drawn = oracle.predict_samples(
        frozen, batch, num_samples=num_samples, instance_label="pixel")
    code = oracle.encode(frozen, batch)
    logits = oracle.decode(frozen, code, batch)["semantics"]
    return drawn["panoptic"], jax.nn.softmax(logits, axis=-2)

  maps, probability_BNKP = draw(batch)
  classes_BX = np.asarray(maps[..., 0]).reshape(len(maps), num_samples, -1)
  num_classes = probability_BNKP.shape[2]
  for number in range(num_classes):
    share_B = (classes_BX == number).mean((1, 2))
    expected_B = probability_BNKP[:, :, number].mean((1, 2))
    np.testing.assert_allclose(share_B, expected_B, atol=0.03)
  assert (classes_BX[:, 0] != classes_BX[:, 1]).any()
  backwards = {name: value[::-1] for name, value in batch.items()}
  other_maps, _ = draw(backwards)
  np.testing.assert_array_equal(other_maps[::-1], maps)


@pytest.mark.parametrize(("options", "message"), [
    (dict(num_samples=4), "num_samples = 4; .*reduce must be one of like"),
    (dict(num_samples=0, reduce="likelihood"), "num_samples = 0; it must be"),
    (dict(reduce="mean"), "reduce = 'mean'; classes and instances"),
    (dict(reduce="best"), "reduce = 'best'; it must be None or one of"),
    (dict(drop_below=2), "drop_below = 2; it must be None or a number in"),
    (dict(soft_words=1.0, mask=3), "soft_words = 1.0 with mask = 3; .*'zeros'"),
    (dict(drop_below=0.1, mask="random"), "drop_below = 0.1 with mask"),
])
def test_readings_that_cannot_be(predict, options, message):
  with pytest.raises(ConfigError, match=message):
    predict(**options)


def test_panels_show_samples_and_the_answer_that_is_scored(family):
  asked = []

  class Predict:
    """Notes what is asked for; every output is void."""

    def __init__(self, **scored):
      self._scored = scored

    def scored(self, name):
      return self._scored if name == "predict" else {}

    def __call__(self, name, **options):
      asked.append((name, options))
      void = np.zeros((8, 16, 16, 2), np.int32)
      return lambda variables, batch: {"panoptic": void}

  columns = family.panel(Predict(drop_below=0.4), None, tiny.batch())
  assert asked[-1] == (
      "predict", dict(drop_below=0.4, temperature=1.0, seed=2))
  assert len(asked) == len(columns) - 2
  scored = dict(num_samples=3, reduce="agreement", temperature=1.0)
  columns = family.panel(Predict(**scored), None, tiny.batch())
  assert list(columns)[-1] == "as scored: agreement"
  assert asked[-1] == ("predict", scored)
  assert asked[-2][1]["num_samples"] == 1 and asked[-2][1]["reduce"] is None
