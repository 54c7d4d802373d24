"""What each ablation of the paper does to the graph (Tables 2, 3, Fig 6, 10).

Other files test these ablations beside the part that they change:
  * dropout, the frozen dictionary, the start from a file:
    trainers/test_stages.py;
  * the inputs that predictions depend on: uvim/models/test_vit.py;
  * base and large language models, and the one without autoregression:
    uvim/priors/test_lm.py and test_sampling.py.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lm_coco_panoptic, vqvae_coco_panoptic
from tests.trainers import tiny
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.step import example_rngs
from uvim import tree
from uvim.codes import masking, vq
from uvim.config import resolve
from uvim.models import make_model
from uvim.models.guided import GuidedModel
from uvim.priors import make_prior, sampling
from uvim.registry import ConfigError

ORACLE = re.compile(
    "encoder/.*|encoder_head/.*|embedding_.*|ctx_enc_.*|pos_embedding_encoder")
LARGE_ENCODER = 302_311_424  # Parameters of ViT-L's 24 blocks and their norm.


def shapes(model):
  """Shape by name of a model's parameters."""
  arrays = jax.eval_shape(model.init, jax.random.key(0))
  params = arrays["params"] if isinstance(model, GuidedModel) else arrays
  return {name: x.shape for name, x in tree.flatten(params).items()}


def count(shapes):
  return sum(map(math.prod, shapes.values()))


def random_params(shapes, seed=0):
  """Parameters that are all at work: a fresh model's heads are zero."""
  rng = np.random.default_rng(seed)
  params = {}
  for name, shape in shapes.items():
    params[name] = rng.normal(0, 0.3, shape).astype(np.float32)
  return tree.unflatten(params)


def paper_model(module, **changes):
  """The model of a shipped config with some of its fields changed."""
  config = module.get_config()
  for name, value in changes.items():
    config.model[name] = value
  config = resolve(config)
  return make_model(config.model_name, config.model, "config.model")


# Stage I.


@functools.cache
def tiny_shapes(**model):
  return shapes(make_model("vit", tiny.stage_i_model(**model), "model"))


@pytest.mark.parametrize("switch,gone,new", [
    (dict(with_decoder_ctx=False), "ctx_dec_embedding/.*", {}),
    (dict(with_encoder_ctx=False), "ctx_enc_embedding/.*", {}),
    (dict(oracle_depth=0), ORACLE.pattern, {}),
    # 2×2 patches, a code of 4 words: learned maps between them.
    (dict(bottleneck="linear"), "none", {
        "bottleneck_downsample": (4, 4), "bottleneck_upsample": (4, 4)}),
    (dict(bottleneck="linear", code_len=3), "none", {
        "bottleneck_downsample": (4, 3), "bottleneck_upsample": (3, 4)}),
    (dict(bottleneck="latent", code_len=3), "none", {
        "latent_tokens": (1, 3, 32),
        "latent_token_positional_embedding": (1, 3, 32)}),
    (dict(code_dropout="none"), "none", {}),
    (dict(dict_learning=False), "none", {}),
    (dict(dict_splitting=False), "none", {}),
    (dict(commitment_weight=0.25), "none", {})])
def test_a_switch_of_stage_i_touches_no_other_parameter(switch, gone, new):
  default = tiny_shapes()
  kept = {k: v for k, v in default.items() if not re.fullmatch(gone, k)}
  assert (kept != default) == (gone != "none")
  assert tiny_shapes(**switch) == kept | new


def test_48_layers_of_vit_l_without_an_oracle():
  """Table 2, no oracle: the model of 25.5 PQ."""
  large = dict(width=1024, mlp_dim=4096, num_heads=16)
  found = shapes(paper_model(vqvae_coco_panoptic, oracle_depth=0,
                             base_model_depth=48, **large))
  assert not any(map(ORACLE.fullmatch, found))
  decoder = {k: v for k, v in found.items() if k.startswith("decoder/")}
  # Twice the blocks of ViT-L and one final norm.
  assert count(decoder) == 2 * LARGE_ENCODER - 2 * 1024


@functools.cache
def gradients(**model):
  """Gradients of the training loss by name, at one point for all models."""
  stage1 = VqvaeFamily(tiny.stage_i_config(
      {"code_dropout": "none", **model}))
  # The parameters that both have in common are equal.
  shared = {}
  for name, shape in tiny_shapes().items():
    if name in tiny_shapes(**model):
      shared[name] = shape
  codebook = vq.init_codebook(jax.random.key(1), tiny.WORDS, 8)
  extra = {"state": vq.as_state(codebook)}
  rngs_B = example_rngs(jax.random.key(0), 8)
  grads, _ = jax.jit(jax.grad(stage1.loss, has_aux=True))(
      random_params(shared), extra, None, tiny.batch(), rngs_B, 0)
  return tree.flatten(jax.device_get(grads))


def test_commitment_pulls_at_the_oracle_alone():
  without = gradients()
  with_it = gradients(commitment_weight=0.25)
  for name, value in without.items():
    scale = np.abs(value).max()
    change = np.abs(with_it[name] - value).max()
    if name.endswith("key/bias"):  # Zero but for rounding.
      continue
    if ORACLE.fullmatch(name):
      assert change > 1e-3 * scale, name
    else:
      assert change < 1e-5 * scale, name


def test_without_an_oracle_nothing_flows_through_the_code():
  grads = gradients(oracle_depth=0)
  assert not grads["decoder_stem/kernel"].any()
  assert grads["decoder_stem/bias"].any()
  assert gradients()["decoder_stem/kernel"].any()


# Fig 6 and 11: code length × dictionary size.


@pytest.mark.parametrize("length,size", [
    (64, 16384), (256, 1024), (1024, 4096)])
def test_code_length_and_dictionary_size(length, size):
  """Two overrides, and both stages follow."""
  config = lm_coco_panoptic.get_config()
  config.oracle.model.code_len = length
  config.oracle.model.dict_size = size
  config.oracle.model.oracle_depth = 1
  config.oracle.model.base_model_depth = 1
  config.model.num_layers = 1
  config = resolve(config)
  oracle = make_model("vit", config.oracle.model, "config.oracle.model")
  # Only the language model knows them; the grid is resized to any length.
  image = jax.ShapeDtypeStruct((2, 512, 512, 3), np.float32)
  label = jax.ShapeDtypeStruct((2, 1024, 256), np.int32)
  arrays = jax.eval_shape(oracle.init, jax.random.key(0))
  coded = jax.eval_shape(
      oracle.oracle, arrays, {"semantics": label, "instances": label}, image)
  assert coded.code.shape == (2, length)
  assert shapes(oracle) == _paper_oracle()

  prior = make_model("lm", config.model, "config.model")
  assert _changed(shapes(prior), _paper_lm()) <= {
      "decoder/EmbedTargets/embedding": (size + 1, 1024),
      "decoder/LogitsDense/kernel": (1024, size + 1),
      "decoder/LogitsDense/bias": (size + 1,),
      "pos_embedding_decoder": (1, length, 1024)}.items()
  assert (prior.lm.vocab_size, prior.lm.seq_len) == (size + 1, length)


@functools.cache
def _paper_oracle():
  return shapes(paper_model(
      vqvae_coco_panoptic, oracle_depth=1, base_model_depth=1))


@functools.cache
def _paper_lm():
  return shapes(paper_model(lm_coco_panoptic, num_layers=1))


def _changed(new, old):
  assert new.keys() == old.keys()
  return {(name, shape) for name, shape in new.items() if shape != old[name]}


# Stage II.

LM = dict(num_layers=2, num_heads=2, mlp_dim=16, emb_dim=8,
          patches={"size": (4, 4)}, vocab_size=10, input_size=(8, 8),
          seq_len=5)
SMALLER = dict(decoder_layers=1, decoder_heads=3, decoder_mlp_dim=20,
               decoder_emb_dim=12)


def small_prior(**changes):
  return make_prior(LM | changes, "config.model")


def test_without_autoregression_word_embeddings_learn_nothing():
  rng = np.random.default_rng(0)
  image = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  text_BL = np.arange(10).reshape(2, 5) % 9 + 1

  def embedding_grad(**changes):
    prior = small_prior(num_layers=1, **changes)

    def loss(params):
      logits_BLV = prior.lm.apply({"params": params}, image, text_BL)
      return jnp.sum(jnp.sin(logits_BLV))

    grads = jax.jit(jax.grad(loss))(random_params(shapes(prior)))
    return np.asarray(grads["decoder"]["EmbedTargets"]["embedding"])

  assert embedding_grad().any()
  assert not embedding_grad(autoregressive=False).any()


def test_sizes_of_the_decoder_leave_the_encoder_alone():
  default = shapes(small_prior())
  same = dict(decoder_layers=2, decoder_heads=2, decoder_mlp_dim=16,
              decoder_emb_dim=8)
  assert shapes(small_prior(**same)) == default
  found = shapes(small_prior(**SMALLER))
  second_block = {name for name in default if "EncDecBlock1" in name}
  assert found.keys() == default.keys() - second_block
  for name, shape in found.items():
    if not name.startswith(("decoder/", "pos_embedding_decoder")):
      assert shape == default[name], name
  for name, shape in {
      "SelfAttn/key/kernel": (12, 3, 4),
      "CrossAttn/query/kernel": (12, 3, 4),
      "CrossAttn/key/kernel": (8, 3, 4),  # Reads what the encoder wrote.
      "CrossAttn/out/kernel": (3, 4, 12),
      "MLP/Dense_0/kernel": (12, 20)}.items():
    assert found[f"decoder/EncDecBlock0/{name}"] == shape, name


def test_the_papers_text_has_a_vit_b_decoder():
  """ViT-L reads the image, ViT-B writes the code: not the quoted 939M."""
  base = lm_coco_panoptic.LM_MODELS["base"]
  found = shapes(paper_model(
      lm_coco_panoptic, decoder_layers=base["num_layers"],
      decoder_heads=base["num_heads"], decoder_mlp_dim=base["mlp_dim"],
      decoder_emb_dim=base["emb_dim"]))
  encoder = {k: v for k, v in found.items() if k.startswith("encoder/")}
  assert count(encoder) == LARGE_ENCODER
  width = 768
  image_width = 1024
  mlp = 3072
  num_words = 4097
  block = (6 * width**2 + 2 * width * image_width  # Attention, no biases.
           + 2 * width * mlp + mlp + width + 3 * 2 * width)
  decoder = 12 * block + 2 * width + 2 * num_words * width + num_words
  outside = (16 * 16 * 3 + 1 + 1024) * image_width + 256 * width
  assert count(found) == LARGE_ENCODER + decoder + outside == 428_708_865


def test_a_smaller_decoder_samples_what_it_says():
  """The cache and the full pass agree: encoder and decoder differ in all."""
  prior = small_prior(**SMALLER)
  params = random_params(shapes(prior))
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
  samples = sampling.sample(
      prior.lm, params, image, np.arange(3), temperature=1.0)
  text_BL = np.asarray(samples.code[:, 0]) + 1
  logits_BLV = jax.jit(prior.lm.apply)({"params": params}, image, text_BL)
  logp_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
  want_BL = np.take_along_axis(logp_BLV, text_BL[..., None], -1)[..., 0]
  np.testing.assert_allclose(samples.logprob[:, 0], want_BL, atol=1e-5)


@pytest.mark.parametrize("changes,words", [
    (dict(decoder_layers=0), ["decoder_layers = 0"]),
    (dict(decoder_heads=3), ["decoder_heads = 3", "emb_dim 8"]),
    (dict(decoder_emb_dim=9), ["num_heads = 2", "decoder_emb_dim 9"]),
    (dict(decoder_emb_dim=6, posemb_type="sincos2d"), ["decoder_emb_dim = 6"])])
def test_sizes_of_the_decoder_that_do_not_fit_are_named(changes, words):
  small_prior(**SMALLER)
  with pytest.raises(ConfigError) as error:
    small_prior(**changes)
  for word in words:
    assert word in str(error.value)


# Fig 10: what f makes of a code of which a region is masked.

NUM_WORDS = 7


@pytest.fixture(scope="module")
def quantizer():
  return vq.VQ(dict_size=NUM_WORDS, codeword_dim=4)


@pytest.fixture(scope="module")
def code_arrays(quantizer):
  return quantizer.init(jax.random.key(0))


@pytest.fixture(scope="module")
def code_BL():
  """Three codes on a 3×3 grid."""
  rng = np.random.default_rng(0)
  return rng.integers(0, NUM_WORDS, (3, 9)).astype(np.int32)


def masked_vectors(quantizer, arrays, code_BL, mask, **options):
  """The code vectors of a masked code, as the base model reads them."""
  code_BL, dropped_BL = masking.mask_code(code_BL, mask, NUM_WORDS, **options)
  return np.asarray(quantizer.embed(arrays, code_BL, dropped_BL))


def test_a_masked_region_is_replaced_and_nothing_else(
    quantizer, code_arrays, code_BL):
  z_BLE = np.asarray(quantizer.embed(code_arrays, code_BL))
  inside = np.zeros((3, 3), bool)
  inside[1:3, 0:2] = True
  inside = inside.reshape(-1)
  codewords = np.asarray(
      quantizer.embed(code_arrays, np.arange(NUM_WORDS)[None])[0])
  seeds_B = np.arange(3)
  for mask, allowed in (("zeros", np.zeros((1, 4))), ("random", codewords),
                        (5, codewords[5:6])):
    masked = functools.partial(
        masked_vectors, quantizer, code_arrays, code_BL, mask, seeds_B=seeds_B)
    part_BLE = masked(region=(1, 0, 3, 2))
    np.testing.assert_array_equal(part_BLE[:, ~inside], z_BLE[:, ~inside])
    for vector in part_BLE[:, inside].reshape(-1, 4):
      assert (vector == allowed).all(-1).any(), mask
    assert (part_BLE[:, inside] != z_BLE[:, inside]).any()
    is_kept_BL = (masked() == z_BLE).all(-1)
    assert not is_kept_BL.all(-1).any()
    nothing_BLE = masked(region=(2, 2, 2, 3))
    np.testing.assert_array_equal(nothing_BLE, z_BLE)


def test_random_words_are_even_and_follow_from_the_seed_alone():
  code_BL = np.zeros((700, 9), np.int32)
  seeds_B = np.arange(700)

  def draw(rows):
    words_BL, dropped_BL = masking.mask_code(
        code_BL[rows], "random", NUM_WORDS, seeds_B=seeds_B[rows])
    assert not dropped_BL.any()
    return np.asarray(words_BL)

  words_BL = draw(slice(None))
  counts = np.bincount(words_BL.reshape(-1), minlength=NUM_WORDS)
  np.testing.assert_allclose(
      counts / words_BL.size, 1 / NUM_WORDS, atol=0.02)
  assert len(np.unique(words_BL, axis=0)) > 690
  np.testing.assert_array_equal(draw([5, 5, 90]), words_BL[[5, 5, 90]])


@pytest.mark.parametrize("mask,region,words", [
    ("zero", None, ["mask = 'zero'", "'zeros'", "0..6"]),
    (7, None, ["mask = 7", "0..6"]),
    (-1, None, ["mask = -1"]),
    (True, None, ["mask = True"]),
    ("zeros", (0, 0, 4, 1), ["mask_region = (0, 0, 4, 1)", "3 × 3 words"]),
    ("zeros", (2, 0, 1, 1), ["(2, 0, 1, 1)"]),
    ("zeros", (0, 3), ["(0, 3)"])])
def test_masks_that_do_not_fit_are_named(code_BL, mask, region, words):
  with pytest.raises(ConfigError) as error:
    masking.mask_code(code_BL, mask, NUM_WORDS, region=region)
  for word in words:
    assert word in str(error.value)
  if region is not None:
    with pytest.raises(ConfigError, match="its 8 words lie on none"):
      masking.mask_code(code_BL[:, :8], mask, NUM_WORDS, region=region)


class Predictor:
  """The panoptic output of a family for a batch."""

  def __init__(self, family, variables):
    self.compiled = Compiled(family)
    self.variables = variables

  def __call__(self, batch, name="predict", **options):
    program = self.compiled(name, **options)
    return np.asarray(program(self.variables, batch)["panoptic"])


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
  """Stage I and stage II on one oracle."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  stage1 = VqvaeFamily(tiny.stage_i_config())
  tiny.save_stage_i(stage1, path)
  stage2 = LmFamily(tiny.stage_ii_config(path))
  frozen = tiny.open_family(stage2).frozen
  params = random_params(shapes(stage2.prior))
  return (Predictor(stage1, frozen),
          Predictor(stage2, stage2.variables(params, {}, frozen)))


def test_both_stages_mask_what_they_predict_from(predictors):
  stage1, stage2 = predictors
  batch = tiny.batch()
  other = {**batch, "labels": batch["labels"][::-1]}
  by_label = stage1(batch)
  assert (by_label != stage1(other)).any()
  # All of it masked: neither label nor language model matters any more.
  for mask in ("zeros", 2):
    masked = stage1(batch, mask=mask)
    np.testing.assert_array_equal(masked, stage1(other, mask=mask))
    np.testing.assert_array_equal(masked, stage2(batch, mask=mask))
    if mask == "zeros":
      np.testing.assert_array_equal(masked, stage1(batch, "zero_code"))
  # Half of it: between the two.
  half = stage1(batch, mask="random", mask_region=(0, 0, 1, 2))
  assert (half != by_label).any()
  assert (half != stage1(batch, mask="random")).any()


@pytest.mark.parametrize("bottleneck", ["linear", "latent"])
def test_words_without_a_grid_have_no_region(bottleneck):
  stage1 = VqvaeFamily(tiny.stage_i_config({"bottleneck": bottleneck}))
  code_BL = np.zeros((8, 4), np.int32)
  # Though they are as many as a square has places.
  with pytest.raises(ConfigError, match=f"mask_region = .*'{bottleneck}'.*no"):
    stage1.decode({}, code_BL, tiny.batch(), "zeros", (0, 0, 1, 2))


def test_a_prior_has_no_grid_where_the_code_has_none():
  config = tiny.stage_ii_config("none", {"code_grid": (2, 2)})
  LmFamily(config)
  config.oracle.model["bottleneck"] = "latent"
  with pytest.raises(ConfigError, match=r"code_grid = \(2, 2\).*'latent'.*no"):
    LmFamily(config)


def test_a_model_without_a_code_has_nothing_to_mask():
  stage1 = VqvaeFamily(tiny.stage_i_config({"oracle_depth": 0}))
  variables = {"params": {}, "state": {}, "frozen": None}
  with pytest.raises(ConfigError, match="oracle_depth = 0"):
    stage1.predict(variables, tiny.batch(), mask="zeros")
