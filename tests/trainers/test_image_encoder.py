"""Stages that see the image with an encoder of their own block."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.step import example_rngs
from uvim import files, tree
from uvim.models.guided import Context
from uvim.registry import ConfigError

# 3 × 5 tokens of 12 numbers; labels are 16 × 16 pixels, 2 × 2 tokens.
ENCODER = dict(
    family="dinov2", variant="S/14", depth=1, width=12, mlp_dim=8, num_heads=2,
    patch_size=(4, 4), input_size=(12, 20))
SIZE = ENCODER["input_size"]


def stage_i(model=None, encoder=None, **changes):
  block = {**ENCODER, **(encoder or {})}
  model = {"image_encoder": block, **(model or {})}
  return VqvaeFamily(tiny.stage_i_config(model, wd=0.1, **changes))


def stage_ii(folder, model=None, encoder=None, **changes):
  """Stage II; its oracle sees the image itself, at label size."""
  path = folder / "stage_i.npz"
  if not path.exists():
    tiny.save_stage_i(VqvaeFamily(tiny.stage_i_config()), path)
  block = {**ENCODER, **(encoder or {})}
  model = {"image_encoder": block, **(model or {})}
  return LmFamily(tiny.stage_ii_config(path, model, wd=0.1, **changes))


def stage_ii_batch(step=0, size=8):
  """The image at the size of the encoder, and at that of the oracle."""
  return {**batch(step, size), "image_ctx": tiny.batch(step, size)["image"]}


def batch(step=0, size=8):
  """`tiny.batch` with images at the size of the encoder."""
  rng = np.random.default_rng(step)
  image = rng.uniform(-1, 1, (size, *SIZE, 3)).astype(np.float32)
  return {**tiny.batch(step, size), "image": image}


def drawn(family, seed=0):
  """(parameters, extra) that are all at work: fresh heads are zero."""
  rng = np.random.default_rng(seed)

  def draw(x):
    return jnp.float32(rng.normal(0, 0.3, x.shape))

  # Not all parameters: to compile that takes a second.
  extra = jax.jit(lambda key: family.init(key)[1])(jax.random.key(seed))
  params, _ = jax.eval_shape(family.init, jax.random.key(seed))
  return jax.tree.map(draw, params), extra


def gradient(family, params, extra, batch, frozen=None):
  """Name → gradient of the training loss."""
  rngs_B = example_rngs(jax.random.key(1), len(batch["labels"]))

  def loss(params):
    return family.loss(params, extra, frozen, batch, rngs_B, 0)[0]

  return tree.flatten(jax.jit(jax.grad(loss))(params))


def of_encoder(arrays):
  """The arrays of the image encoder among those by name."""
  return [array for name, array in arrays.items()
          if name.startswith("image_encoder/")]


@pytest.mark.parametrize("frozen,beside", [(True, False), (False, True)])
def test_gradient_reaches_the_encoder_unless_it_is_frozen(frozen, beside):
  family = stage_i(encoder=dict(frozen=frozen, beside=beside))
  params, extra = drawn(family)
  grads = gradient(family, params, extra, batch())
  moved = [np.abs(grad).max() > 0 for grad in of_encoder(grads)]
  # The bias of the keys moves nothing but by rounding.
  assert not any(moved) if frozen else np.mean(moved) > 0.9
  others = ["ctx_enc_projection/kernel", "ctx_dec_projection/kernel"]
  embeddings = ["ctx_enc_embedding/kernel", "ctx_dec_embedding/kernel"]
  if beside:
    others += embeddings
  else:
    assert not set(embeddings) & set(grads)
  for name in others:
    assert np.abs(grads[name]).max() > 0, name


def run_two_steps(family, batches):
  """(the state after, whether it left each array of the encoder as it was)."""
  states = []
  tiny.run(family, steps=2, batches=batches, mesh=[("data", 1)],
           watch=states.append)
  before, _, after = states
  arrays = [of_encoder(tree.flatten(state.params)) for state in (before, after)]
  same = [np.array_equal(*pair) for pair in zip(*arrays, strict=True)]
  return after, same


@pytest.mark.parametrize("frozen", [True, False])
def test_steps_leave_a_frozen_encoder_as_it_was(frozen):
  family = stage_i(encoder=dict(frozen=frozen))
  after, same = run_two_steps(family, batch)
  assert all(same) if frozen else not any(same)
  # What is not trained has no moments.
  moments = [name for name in tree.leaf_names(after.opt_state)
             if "image_encoder" in name]
  assert bool(moments) != frozen


def test_features_stand_for_the_image():
  family = stage_i()
  params, extra = drawn(family)
  arrays = {"params": params, "state": extra["state"]}
  data = batch()
  ctx = family.model.see(arrays, data["image"])
  assert ctx.features.shape == (8, 15, 12)
  labels = family.task.inputs(data)["x"]
  model = family.model
  codes = [model.oracle(arrays, labels, seen).code for seen in (
      data["image"], ctx, Context(None, ctx.features))]
  np.testing.assert_array_equal(codes[0], codes[1])
  np.testing.assert_array_equal(codes[0], codes[2])
  z_BLE = model.embed(arrays, codes[0])
  outputs = [model.base_model(arrays, z_BLE, seen)["semantics"]
             for seen in (data["image"], Context(None, ctx.features))]
  np.testing.assert_array_equal(*outputs)
  other = model.base_model(arrays, z_BLE, -data["image"])["semantics"]
  assert np.abs(other - outputs[0]).max() > 1e-3


def test_a_step_with_cached_features_is_that_with_the_image():
  family = stage_i()
  params, extra = drawn(family)
  arrays = {"params": params, "state": extra["state"]}
  data = batch()
  features = family.model.see(arrays, data["image"]).features
  cached = {"labels": data["labels"], "features": np.float16(features)}
  family.check_batch(cached)
  with_image = gradient(family, params, extra, data)
  with_cache = gradient(family, params, extra, cached)
  for name, grad in with_image.items():
    # 1e-6: some gradients are nothing but rounding.
    atol = 0.02 * np.abs(grad).max() + 1e-6
    np.testing.assert_allclose(
        with_cache[name], grad, atol=atol, err_msg=name)


def test_a_batch_runs_the_encoder_once():
  family = stage_i()
  params, extra = drawn(family)
  arrays = family.variables(params, extra, None)
  data = batch()
  rngs_B = example_rngs(jax.random.key(1), 8)
  programs = [
      jax.make_jaxpr(family.loss)(params, extra, None, data, rngs_B, 0)]
  for predict in (family.predict, family.predict_zero_code, family.eval_loss):
    programs.append(jax.make_jaxpr(predict)(arrays, data))
  # Its features are a program of that name.
  assert [str(x).count("name=_features") for x in programs] == [1, 1, 1, 1]


def test_both_predictions_run():
  family = stage_i()
  params, extra = drawn(family)
  arrays = family.variables(params, extra, None)
  for predict in (family.predict, family.predict_zero_code, family.eval_loss):
    outputs = jax.jit(predict)(arrays, batch())
    assert all(len(x) == 8 for x in outputs.values())


def cached(shape=(8, 15, 12), **changes):
  features = np.zeros(shape, np.float16)
  data = {"labels": tiny.batch()["labels"], "features": features}
  return {**data, **changes}


@pytest.mark.parametrize("encoder,data,message", [
    ({}, tiny.batch(), "image_encoder.input_size is \\(12, 20\\)"),
    ({}, {"labels": tiny.batch()["labels"]}, "must keep 'image'"),
    ({}, cached((8, 15, 13)), r"features of shape \(15, 13\).*\(15, 12\)"),
    (dict(frozen=False), cached(), "frozen = False"),
    (dict(beside=True), cached(), "must keep 'image'"),
])
def test_a_batch_that_does_not_fit_is_refused(encoder, data, message):
  with pytest.raises(ConfigError, match=message):
    stage_i(encoder=encoder).check_batch(data)


def test_features_need_an_image_encoder():
  family = VqvaeFamily(tiny.stage_i_config())
  with pytest.raises(ConfigError, match="no image_encoder"):
    family.check_batch({**tiny.batch(), "features": np.zeros((8, 4, 12))})


@pytest.mark.parametrize("model,encoder,message", [
    ({}, dict(input_size=(12, 21)), "input_size = .*multiple of the patch"),
    ({}, dict(num_heads=5), "num_heads = 5; .*divisor of width 12"),
    ({}, dict(variant="S"), "variant = 'S'"),
    ({}, dict(family="dino2"), "Did you mean 'dinov2'"),
    ({}, dict(frosen=True), "image_encoder.frosen.*Did you mean"),
    (dict(with_encoder_ctx=False, with_decoder_ctx=False), {}, "nobody sees"),
    (dict(image_encoder="dinov2"), {}, "image_encoder = 'dinov2'"),
])
def test_a_block_that_is_wrong_is_refused(model, encoder, message):
  with pytest.raises(ConfigError, match=message):
    stage_i(model, encoder)


def test_an_empty_block_is_none():
  family = VqvaeFamily(tiny.stage_i_config(dict(image_encoder={})))
  assert family.image_encoder is None
  assert family.frozen_patterns() == ()
  assert "image_encoder" not in family.wanted_arrays()["params"]


def test_a_variant_has_the_sizes_of_its_name():
  model = tiny.stage_i_model(
      image_encoder=dict(variant="B/16", input_size=(32, 48)))
  family = VqvaeFamily(tiny.stage_i_config(model))
  encoder = family.image_encoder
  assert encoder.grid_size == (2, 3)
  assert encoder.features_shape == (6, 768)
  params = family.wanted_arrays()["params"]["image_encoder"]
  assert params["EmbedPatches"]["kernel"].shape == (16, 16, 3, 768)
  assert params["encoder_prefix"].shape == (1, 1, 768)
  assert len(params["encoder"]) == 12 + 1


@pytest.mark.parametrize("part", ["image_encoder", None])
def test_it_starts_from_an_encoder_alone_and_from_that_of_a_run(tmp_path, part):
  source = stage_i(encoder=dict(input_size=(12, 12)))
  params, extra = drawn(source)
  whole = {"params": params, "state": extra["state"]}
  path = tmp_path / "source.npz"
  files.save_npz(path, {"params": params[part]} if part else whole)
  family = stage_i(encoder=dict(input_size=(12, 12)),
                   model_init={"image_encoder": str(path)})
  initial = tiny.open_family(family).initial
  wanted = tree.flatten({"params": {"image_encoder": params["image_encoder"]}})
  assert set(initial) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_array_equal(initial[name], array)


def test_a_new_run_does_not_freeze_what_it_drew():
  params = stage_i().wanted_arrays()
  with pytest.raises(ConfigError, match="frozen, but nothing loads"):
    stage_i().check_start({"params/head_semantics/kernel": np.zeros(1)})
  stage_i().check_start(tree.flatten(params))
  stage_i(encoder=dict(frozen=False)).check_start({})
  VqvaeFamily(tiny.stage_i_config()).check_start({})


# Stage II.


@pytest.mark.parametrize("frozen,beside", [(True, False), (False, True)])
def test_stage_ii_learns_on_features(tmp_path, frozen, beside):
  family = stage_ii(tmp_path, encoder=dict(frozen=frozen, beside=beside))
  oracle = tiny.open_family(family).frozen
  params, extra = drawn(family)
  data = stage_ii_batch()
  family.check_batch(data)
  grads = gradient(family, params, extra, data, oracle)
  moved = [np.abs(grad).max() > 0 for grad in of_encoder(grads)]
  assert not any(moved) if frozen else np.mean(moved) > 0.9
  assert ("EmbedPatches/kernel" in grads) == beside
  for name in ("image_projection/kernel", "pos_embedding_encoder"):
    assert np.abs(grads[name]).max() > 0, name


@pytest.mark.parametrize("frozen", [True, False])
def test_steps_of_stage_ii_leave_a_frozen_encoder(tmp_path, frozen):
  family = stage_ii(tmp_path, encoder=dict(frozen=frozen))
  _, same = run_two_steps(family, stage_ii_batch)
  assert all(same) if frozen else not any(same)


def test_features_stand_for_the_image_of_the_prior(tmp_path):
  family = stage_ii(tmp_path)
  params, _ = drawn(family)
  prior = family.prior
  image = batch()["image"]
  seen = Context(None, prior.see(params, image).features)
  seeds_B = np.arange(8, dtype=np.uint32)
  drawn_codes = [prior.sample(params, x, seeds_B, temperature=1.0)
                 for x in (image, seen)]
  np.testing.assert_array_equal(drawn_codes[0].code, drawn_codes[1].code)
  code = drawn_codes[0].code[:, 0]
  scores = [prior.log_prob(params, x, code) for x in (image, seen)]
  np.testing.assert_array_equal(*scores)
  # The sampler and the whole network agree on what it draws.
  np.testing.assert_allclose(
      drawn_codes[0].logprob[:, 0], scores[0], atol=1e-4)
  other = prior.log_prob(params, -image, code)
  assert np.abs(other - scores[0]).max() > 1e-3


def test_a_step_of_stage_ii_with_caches_is_that_with_the_image(tmp_path):
  family = stage_ii(tmp_path)
  oracle = tiny.open_family(family).frozen
  params, extra = drawn(family)
  data = stage_ii_batch()
  features = family.prior.see(params, data["image"]).features
  cached = {
      "features": np.float16(features), "code": family.targets(oracle, data)}
  family.check_batch(cached)
  with_image = gradient(family, params, extra, data, oracle)
  cached["labels"] = data["labels"]
  with_cache = gradient(family, params, extra, cached)
  for name, grad in with_image.items():
    atol = 0.02 * np.abs(grad).max() + 1e-6
    np.testing.assert_allclose(
        with_cache[name], grad, atol=atol, err_msg=name)


def test_halves_of_a_batch_have_their_own_features(tmp_path):
  family = stage_ii(tmp_path)
  params, _ = drawn(family)
  halved = dataclasses.replace(family.prior, split_from=0)
  data = batch()
  code = np.arange(32).reshape(8, 4) % tiny.WORDS
  whole = family.prior.word_nll(params, data["image"], code)
  assert halved.is_split(8) and not family.prior.is_split(8)
  halves = halved.word_nll(params, data["image"], code)
  np.testing.assert_allclose(halves, whole, rtol=1e-5)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
  """(stage II, its parameters, the oracle's arrays), with one encoder."""
  path = tmp_path_factory.mktemp("pair") / "stage_i.npz"
  oracle = stage_i()
  oracle_params, _ = drawn(oracle, seed=1)
  encoder = oracle_params["image_encoder"]
  tiny.save_stage_i(oracle, path, image_encoder=encoder)
  config = tiny.stage_ii_config(path, model={"image_encoder": ENCODER})
  of_oracle = {**config.oracle.model, "image_encoder": ENCODER}
  config = dataclasses.replace(config, oracle=dataclasses.replace(
      config.oracle, model=of_oracle))
  family = LmFamily(config)
  params, _ = drawn(family)
  params["image_encoder"] = encoder
  return family, params, tiny.open_family(family).frozen


def encoder_runs(predict, variables, data):
  """How often a prediction runs an image encoder."""
  return str(jax.make_jaxpr(predict)(variables, data)).count("name=_features")


def test_both_stages_see_an_image_once(pair):
  """Where their encoders are the same; the results are the same bits."""
  family, params, frozen = pair
  data = batch()
  family.check_batch(data)
  shared = family.variables(params, {}, frozen)
  separate = {**shared, "params": params}
  for predict in (family.predict, family.eval_loss):
    assert encoder_runs(predict, separate, data) == 2
    assert encoder_runs(predict, shared, data) == 1
    program = jax.jit(predict)
    expected = program(separate, data)
    for name, value in program(shared, data).items():
      np.testing.assert_array_equal(value, expected[name], err_msg=name)
  assert encoder_runs(family.predictors["oracle"], shared, data) == 1


def test_an_oracle_with_an_image_of_its_own_sees_that(pair):
  family, params, frozen = pair
  data = {**batch(0), "image_ctx": batch(1)["image"]}
  shared = family.variables(params, {}, frozen)
  separate = {**shared, "params": params}
  assert encoder_runs(family.eval_loss, shared, data) == 2
  program = jax.jit(family.eval_loss)
  np.testing.assert_array_equal(
      program(shared, data)["loss"], program(separate, data)["loss"])


def test_stage_i_predicts_from_features_without_its_encoder():
  family = stage_i()
  params, extra = drawn(family)
  variables = family.variables(params, extra, None)
  data = batch()
  features = family.model.see(variables, data["image"]).features
  read = {**data, "features": features}
  for name in ("predict", "zero_code", "loss", "samples"):
    assert encoder_runs(family.predictors[name], variables, read) == 0
  program = jax.jit(family.eval_loss)
  np.testing.assert_allclose(
      program(variables, read)["loss"], program(variables, data)["loss"],
      rtol=1e-5)


def test_stage_ii_predicts_from_features_without_its_encoder(pair):
  """And the oracle, where it sees the same."""
  family, params, frozen = pair
  shared = family.variables(params, {}, frozen)
  data = batch()
  features = family.prior.see(params, data["image"]).features
  read = {**data, "features": features}
  for name in ("predict", "loss", "oracle", "zero_code"):
    assert encoder_runs(family.predictors[name], shared, read) == 0
  program = jax.jit(family.eval_loss)
  np.testing.assert_allclose(
      program(shared, read)["loss"], program(shared, data)["loss"], rtol=1e-5)
  # An oracle with an encoder of its own, or an image of its own.
  separate = {**shared, "params": params}
  other = {**read, "image_ctx": batch(1)["image"]}
  assert encoder_runs(family.eval_loss, separate, read) == 1
  assert encoder_runs(family.eval_loss, shared, other) == 1


@pytest.mark.parametrize("encoder", [{}, dict(dtype="bfloat16")])
def test_other_encoders_see_for_themselves(pair, encoder):
  """Another network, and the same one with one other number."""
  family, params, frozen = pair
  model = {**family.config.model, "image_encoder": {**ENCODER, **encoder}}
  family = LmFamily(dataclasses.replace(family.config, model=model))
  if not encoder:
    params = jax.tree.map(np.array, params)
    params["image_encoder"]["encoder_prefix"][0, 0, -1] += 1e-6
  variables = family.variables(params, {}, frozen)
  assert encoder_runs(family.eval_loss, variables, batch()) == 2


@pytest.mark.parametrize("model,message", [
    (dict(backbone="mixer"), "backbone = 'mixer'; .*must be 'vit'"),
    (dict(image_encoder=dict(variant="S/14", input_size=(28, 30))),
     "image_encoder.input_size"),
])
def test_stage_ii_refuses_what_does_not_fit(tmp_path, model, message):
  with pytest.raises(ConfigError, match=message):
    stage_ii(tmp_path, model)
