"""What each stage computes and leaves alone, on made-up batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trainers import tiny
from trainers import step
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files, tree
from uvim.codes import usage
from uvim.learn import sharding
from uvim.registry import ConfigError
from uvim.store import checkpoint, start_from

FSDP = [(".*", "fsdp(data)")]
# Name → (changes to the config, where it runs); what they are compared with
# runs on eight devices, whole.
WAYS_1 = {
    "1 device": ({}, dict(mesh=[("data", 1)])),
    "fsdp over 8": ({}, dict(rules=FSDP)),
    "fsdp over 2, in 4 parts": (
        dict(grad_accum_steps=4), dict(mesh=[("data", 2)], rules=FSDP)),
}
IN_PARTS = dict(grad_accum_steps=2, skip_bad_steps=1), dict(mesh=[("data", 4)])
WAYS_2 = {
    "fsdp over 8": ({}, dict(rules=FSDP)),
    "4 devices, in 2 parts": IN_PARTS,
}
STEPS = 20
# A momentum in bf16 turns a sum in another order into another number.
EXACT = {"optax": {"dtype_momentum": "float32"}}
FORGETFUL = {"dict_momentum": 0.7}  # So that entries die and are split.


@pytest.fixture(scope="module")
def stage1():
  return VqvaeFamily(tiny.stage_i_config(FORGETFUL, **EXACT))


@pytest.fixture(scope="module")
def oracle(stage1, tmp_path_factory):
  """The path of a stage I checkpoint."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  tiny.save_stage_i(stage1, path)
  return path


@pytest.fixture(scope="module")
def stage2(oracle):
  return LmFamily(tiny.stage_ii_config(oracle, **EXACT))


@pytest.fixture(scope="module")
def run1(stage1):
  return tiny.run(stage1, steps=STEPS)


@pytest.fixture(scope="module")
def run2(stage2):
  return tiny.run(stage2, steps=STEPS)


@pytest.fixture(scope="module")
def lm_params(stage2):
  """Fresh parameters of the language model, on the host."""
  return jax.device_get(jax.jit(stage2.init)(jax.random.key(0))[0])


def blank(stage):
  """A state of zeros, drawn without compiling anything."""
  init, *_ = step.make_init(stage, stage.config, 20)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                      jax.eval_shape(init, jax.random.PRNGKey(0)))


def rngs(seed):
  """A key for each of a batch's examples."""
  return step.example_rngs(jax.random.key(seed), 8)


def figures(logs, *names):
  return np.array([[log[name] for name in names] for log in logs])


def test_first_losses_are_those_of_an_even_guess(run1, run2):
  """BEHAVIOURS 7, 26: ln K + ln I, and ln V."""
  want = np.log(tiny.CLASSES) + np.log(tiny.INSTANCES)
  assert float(run1[1][0]["loss"]) == pytest.approx(want, rel=1e-5)
  want = np.log(tiny.WORDS + 1)
  assert float(run2[1][0]["loss"]) == pytest.approx(want, rel=1e-5)


# Three steps from seed 0: loss, gradient norm. They stand for nothing but
# themselves: whatever moves them has changed training.
GOLDEN_1 = [[2.995729, 0.150232], [2.994963, 0.166798], [2.997553, 0.170426]]
GOLDEN_2 = [[2.197225, 1.276067], [2.184678, 1.808579], [2.172674, 1.314781]]


def test_golden_steps(run1, run2):
  for (_, logs), golden in ((run1, GOLDEN_1), (run2, GOLDEN_2)):
    got, golden = figures(logs[:3], "loss", "grad_norm"), np.array(golden)
    np.testing.assert_allclose(got[:, 0], golden[:, 0], rtol=1e-5)
    np.testing.assert_allclose(got[:, 1], golden[:, 1], rtol=1e-3)


def assert_same_run(stage, got, want):
  """Losses, usage, parameters, dictionary and predictions."""
  names = sorted(want[1][0])
  np.testing.assert_allclose(
      figures(got[1], *names), figures(want[1], *names), rtol=1e-5, atol=1e-7)
  want_leaves = tree.flatten(want[0])
  for name, value in tree.flatten(got[0]).items():
    # A key's bias has no gradient but rounding; Adafactor makes it a step.
    if not name.endswith("key/bias"):
      np.testing.assert_allclose(
          value, want_leaves[name], rtol=1e-5, err_msg=name,
          atol=1e-5 * np.abs(want_leaves[name]).max(initial=1))
  frozen = tiny.open_family(stage).frozen
  predict = Compiled(stage)("loss")
  losses = [
      predict(tiny.variables(stage, state, frozen), tiny.batch(99))["loss"]
      for state, _ in (got, want)]
  np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS_1)
def test_stage_i_agrees_however_it_is_computed(stage1, run1, way):
  """BEHAVIOURS 21, 38: Adafactor's factors, code dropout, splits."""
  changes, where = WAYS_1[way]
  stage = VqvaeFamily(tiny.stage_i_config(FORGETFUL, **EXACT, **changes))
  assert figures(run1[1], "code/splits").sum() > 0
  assert_same_run(stage1, tiny.run(stage, steps=STEPS, **where), run1)


@pytest.mark.parametrize("way", WAYS_2)
def test_stage_ii_agrees_however_it_is_computed(stage2, run2, oracle, way):
  changes, where = WAYS_2[way]
  stage = LmFamily(tiny.stage_ii_config(oracle, **EXACT, **changes))
  state, logs = tiny.run(stage, steps=STEPS, **where)
  logs = [{k: v for k, v in log.items() if k != "bad"} for log in logs]
  assert_same_run(stage2, (state, logs), run2)


def test_a_bad_step_changes_nothing_but_the_step(oracle):
  """config.skip_bad_steps."""
  def batches(step):
    batch = tiny.batch(step)
    if step == 2:
      batch["image"][3, 0, 0] = np.inf
    return batch

  changes, where = IN_PARTS
  stage = LmFamily(tiny.stage_ii_config(oracle, **EXACT, **changes))
  states = []
  _, logs = tiny.run(
      stage, steps=3, batches=batches, watch=states.append, **where)
  *_, before, after = states
  assert [int(log["bad"]) for log in logs] == [0, 0, 1]
  assert (before.step, after.step) == (2, 3)
  jax.tree.map(np.testing.assert_array_equal,
               after.replace(step=before.step), before)


def test_fsdp_splits_adafactors_factored_state(stage1):
  init, *_ = step.make_init(stage1, stage1.config, 20)
  state = jax.eval_shape(init, jax.random.PRNGKey(0))
  mesh = sharding.make_mesh([("data", -1)])
  shardings = sharding.state_shardings(state, mesh, FSDP)
  kernels = [s for path, s in
             jax.tree_util.tree_leaves_with_path(shardings.opt_state)
             if "v_row" in jax.tree_util.keystr(path)]
  assert any("data" in s.spec for s in kernels)


@pytest.fixture(scope="module")
def frozen(stage2):
  """The oracle's arrays."""
  return tiny.open_family(stage2).frozen


def test_targets_are_code_plus_one(stage2, lm_params, frozen):
  """BEHAVIOURS 26: 0 starts a sequence and is never a target."""
  batch = tiny.batch()
  code_BL = jax.jit(stage2.targets)(frozen, batch)
  np.testing.assert_array_equal(
      code_BL, jax.jit(stage2.oracle.encode)(frozen, batch))
  assert code_BL.min() >= 0 and code_BL.max() < tiny.WORDS
  assert len(np.unique(code_BL)) > 2
  text_BL = code_BL + 1

  # The loss is the likelihood of those, each given the words before it.
  # (Weights a little off, as fresh ones find all words equally likely.)
  params = jax.tree.map(
      lambda x: x + 0.1 * np.sin(np.arange(x.size)).reshape(x.shape).astype(
          np.float32), lm_params)
  loss, report = jax.jit(stage2.loss)(
      params, {}, frozen, batch, rngs(0), 0)
  np.testing.assert_array_equal(
      report.stats["counts"], usage.histogram(code_BL, tiny.WORDS))
  logits_BLV = jax.jit(stage2.prior.lm.apply)(
      {"params": params}, batch["image"], text_BL)
  logp_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
  pick = np.asarray(text_BL)[..., None]
  want = -np.take_along_axis(logp_BLV, pick, -1).mean()
  assert float(loss) == pytest.approx(want, rel=1e-5)
  # Not that of the codes themselves.
  other = -np.take_along_axis(logp_BLV, pick - 1, -1).mean()
  assert abs(want - other) > 1e-2


def test_oracle_is_untouched_by_stage_ii(frozen, run2, oracle):
  """BEHAVIOURS 27: bitwise, and nothing of it is in the trained state."""
  saved = checkpoint.load_params(oracle)
  jax.tree.map(np.testing.assert_array_equal, frozen, saved)
  state = run2[0]
  assert set(state.extra) == {"usage"}
  assert not any("dictionary" in name or "embedding_semantics" in name
                 for name in checkpoint.array_specs(state))


def test_oracle_is_not_dropped_in_stage_ii(stage2, lm_params, frozen):
  """BEHAVIOURS 24, 27: its code depends on no random numbers."""
  loss = jax.jit(stage2.loss)
  results = [loss(lm_params, {}, frozen, tiny.batch(), rngs(seed), 0)
             for seed in (0, 1)]
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_code_dropout_is_for_training_only(stage1, oracle):
  """BEHAVIOURS 24: the loss of evaluation is the one without dropout."""
  saved = checkpoint.load_params(oracle)
  params, extra = saved["params"], {"state": saved["state"]}
  loss = jax.jit(stage1.loss)

  def loss_of(family_loss, seed):
    return family_loss(params, extra, None, tiny.batch(), rngs(seed), 0)[0]

  dropped = [loss_of(loss, seed) for seed in (0, 1)]
  assert dropped[0] != dropped[1]

  whole = VqvaeFamily(tiny.stage_i_config({"code_dropout": "none"}))
  kept = loss_of(jax.jit(whole.loss), 0)
  values = Compiled(stage1)("loss")(
      stage1.variables(params, extra, None), tiny.batch())
  assert float(values["loss"].mean()) == pytest.approx(
      float(kept), rel=1e-5)
  assert abs(dropped[0] - kept) > 1e-3


@pytest.mark.parametrize("learning,splitting", [
    (True, True), (False, True), (True, False)])
def test_dictionary_splits_only_where_it_learns(learning, splitting):
  """BEHAVIOURS 23."""
  stage = VqvaeFamily(tiny.stage_i_config(
      {"dict_learning": learning, "dict_splitting": splitting}))
  params, extra = jax.jit(stage.init)(jax.random.key(0))
  before = extra["state"]
  before = {  # Word 3: far from all vectors, and dead.
      "counts": before["counts"].at[3].set(0.0),
      "dictionary": before["dictionary"].at[3].set(0.0)}
  extra["state"] = before
  _, report = jax.jit(stage.loss)(
      params, extra, None, tiny.batch(), rngs(1), 0)
  after, logs = stage.after_step(
      params, extra, report.stats, jax.random.key(1), True)
  after = after["state"]
  assert (logs["code/splits"] > 0) == (learning and splitting)
  if learning and splitting:
    assert after["counts"].min() >= 0.1
  elif learning:  # The others learn; the dead one stays dead.
    assert after["counts"][3] == 0
    assert (after["counts"] != before["counts"]).any()
  else:
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_usage_starts_anew_every_epoch(stage1, run1):
  """run() has epochs of two steps."""
  words = tiny.LENGTH * 8
  counted = run1[0].extra["usage"]
  assert counted.sum() == 2 * words
  share = figures(run1[1], "code/usage")[:, 0]
  assert (share[1::2] >= share[::2]).all()
  assert (share[2::2] < share[1:-1:2]).any()
  assert share[-1] * tiny.WORDS == np.count_nonzero(counted)


def test_without_an_oracle_the_base_model_trains_alone():
  """oracle_depth = 0: no code, no look-up, no dictionary."""
  stage = VqvaeFamily(tiny.stage_i_config({"oracle_depth": 0}))
  state, logs = tiny.run(stage, steps=2, mesh=[("data", 1)])
  assert np.isfinite([log["loss"] for log in logs]).all()
  assert not any(name.startswith("code/") for name in logs[0])
  after = tiny.variables(stage, state)
  np.testing.assert_array_equal(state.extra["state"]["counts"], 1)
  assert not state.extra["usage"].any()
  assert state.params["head_semantics"]["kernel"].any()  # Began as zeros.
  # Its prediction is that of the code-free model, whatever the label.
  batch = tiny.batch()
  predict = Compiled(stage)
  out = predict("predict")(after, batch)
  zero = predict("zero_code")(after, batch)
  jax.tree.map(np.testing.assert_array_equal, out, zero)
  loss_B = predict("loss")(after, batch)["loss"]
  assert loss_B.shape == (8,) and np.isfinite(loss_B).all()


def test_no_oracle_no_stage_ii(oracle):
  config = tiny.stage_ii_config(oracle)
  config.oracle.model["oracle_depth"] = 0
  with pytest.raises(ConfigError, match="oracle_depth = 0"):
    LmFamily(config)


def test_stage_ii_must_speak_the_oracles_code(oracle):
  for name, value in (("vocab_size", tiny.WORDS), ("seq_len", 9)):
    with pytest.raises(ConfigError, match=f"config.model.{name} = {value}"):
      LmFamily(tiny.stage_ii_config(oracle, {name: value}))


def test_pictures_of_another_size_are_refused(stage2):
  batch = tiny.batch()
  stage2.check_batch(batch)
  large = np.zeros((8, 32, 32, 3), np.float32)
  with pytest.raises(ConfigError, match=r"'image' of \(32, 32\).*\(16, 16\)"):
    stage2.check_batch({**batch, "image": large, "image_ctx": batch["image"]})
  with pytest.raises(ConfigError, match=r"'image_ctx' of \(32, 32\)"):
    stage2.check_batch({**batch, "image_ctx": large})
  with pytest.raises(ConfigError, match="keep 'image'"):
    stage2.check_batch({"labels": batch["labels"],
                        "image_ctx": batch["image"]})


def test_oracle_of_another_size_is_refused(oracle):
  config = tiny.stage_ii_config(oracle)
  config.oracle.model["codeword_dim"] = 16
  with pytest.raises(ConfigError, match="state/dictionary.*8.*16"):
    tiny.open_family(LmFamily(config))


def test_a_seed_is_no_other_program(stage2):
  predict = Compiled(stage2)
  one, two = (predict("predict", temperature=1.0, seed=seed)
              for seed in (1, 2))
  assert one.func is two.func
  assert (one.keywords["seed"], two.keywords["seed"]) == (1, 2)
  other = predict("predict", temperature=0.5, seed=1)
  assert other.func is not one.func


# ── config.model_init ────────────────────────────────────────────────────────


@pytest.mark.parametrize("nothing", [None, "", {}, {"encoder": ""}])
def test_nothing_means_from_scratch(stage2, nothing):
  wanted = stage2.wanted_arrays()
  assert start_from.Store().read_start(nothing, wanted, kind="lm") == {}


def test_stage_i_starts_from_a_file(oracle):
  stage = VqvaeFamily(tiny.stage_i_config(model_init=str(oracle)))
  state = start_from.replace(blank(stage), tiny.open_family(stage).initial)
  saved = checkpoint.load_params(oracle)
  jax.tree.map(np.testing.assert_array_equal, state.params, saved["params"])
  jax.tree.map(np.testing.assert_array_equal, state.extra["state"],
               saved["state"])


def test_a_part_starts_from_a_file(lm_params, oracle, tmp_path):
  path = tmp_path / "lm.npz"
  files.save_npz(path, {"params": lm_params})
  stage = LmFamily(tiny.stage_ii_config(
      oracle, model_init={"encoder": str(path),
                          "pos_embedding_encoder": str(path)}))
  initial = tiny.open_family(stage).initial
  params = start_from.replace(blank(stage), initial).params
  for name, drawn in lm_params.items():
    if name in ("encoder", "pos_embedding_encoder"):
      jax.tree.map(np.testing.assert_array_equal, params[name], drawn)
    else:
      assert not any(x.any() for x in jax.tree.leaves(params[name]))


def test_a_misfit_is_named(stage2, oracle, tmp_path):
  wanted = stage2.wanted_arrays()

  def read(model_init):
    start_from.Store().read_start(model_init, wanted, kind="lm")

  with pytest.raises(ConfigError, match="no checkpoint|No checkpoint"):
    read(str(tmp_path / "none.npz"))
  with pytest.raises(ConfigError, match="encodr.*Did you mean 'encoder'"):
    read({"encodr": str(oracle)})
  with pytest.raises(ConfigError, match="config.model_init = (.|\n)*absent"):
    read(str(oracle))
  with pytest.raises(ConfigError, match="howto-i21k-L/16.*ViT"):
    read("howto-i21k-L/16")


def test_halves_of_a_batch_equal_the_whole(stage2, lm_params):
  image = tiny.batch(size=4)["image"]
  code_BL = np.arange(16).reshape(4, 4) % tiny.WORDS

  def gradient(prior):
    def weighted_nll(params):
      return jnp.mean(code_BL * prior.word_nll(params, image, code_BL))
    return jax.value_and_grad(weighted_nll)(lm_params)

  whole = stage2.prior
  halves = dataclasses.replace(whole, split_from=4 * 4 * 32)
  assert not whole.is_split(4)
  assert halves.is_split(4) and not halves.is_split(5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
               gradient(halves), gradient(whole))
  # Devices that share the batch would have to exchange it.
  with jax.set_mesh(sharding.make_mesh([("data", 2)])):
    assert not halves.is_split(4)
