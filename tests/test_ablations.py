"""What each ablation of the paper does to the graph (Tables 2, 3, Fig 6, 10).

Not here but where the part is tested: dropout, the frozen dictionary and the
start from a file (trainers/test_stages.py), the inputs that predictions
depend on (uvim/test_vit.py), base and large language models and the one
without autoregression (uvim/test_lm.py, uvim/test_decode.py).
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
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim import tree
from uvim.codes import vq as quantizer
from uvim.config import resolve
from uvim.models import make_model, vit
from uvim.priors import lm
from uvim.priors import sampling as decode
from uvim.registry import ConfigError

ORACLE = re.compile(
    "encoder/.*|encoder_head/.*|embedding_.*|ctx_enc_.*|pos_embedding_encoder")
LARGE_ENCODER = 302_311_424  # Parameters of ViT-L's 24 blocks and their norm.


def shapes(model):
  """Shape by name of a model's parameters."""
  init = lm.init_params if isinstance(model, lm.LM) else vit.init_params
  params = jax.eval_shape(functools.partial(init, model), jax.random.key(0))
  return {name: x.shape for name, x in tree.flatten(params).items()}


def count(shapes):
  return sum(map(math.prod, shapes.values()))


def random_params(shapes, seed=0):
  """Parameters that are all at work: a fresh model's heads are zero."""
  rng = np.random.default_rng(seed)
  return tree.unflatten({name: rng.normal(0, 0.3, shape).astype(np.float32)
                         for name, shape in shapes.items()})


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
    (dict(bottleneck_resize=False), "none", {
        "bottleneck_downsample": (4, 4), "bottleneck_upsample": (4, 4)}),
    (dict(bottleneck_resize=False, code_len=3), "none", {
        "bottleneck_downsample": (4, 3), "bottleneck_upsample": (3, 4)}),
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
  stage = VqvaeStage(tiny.stage_i_config(
      {"code_dropout": "none", **model}))
  params = random_params({k: v for k, v in tiny_shapes().items()
                          if k in tiny_shapes(**model)})
  codebook = quantizer.init_codebook(jax.random.key(1), tiny.WORDS, 8)
  grads, _ = jax.jit(jax.grad(stage.loss, has_aux=True))(
      params, codebook, None, tiny.batch(), jax.random.key(0))
  return tree.flatten(jax.device_get(grads))


def test_commitment_pulls_at_the_oracle_alone():
  without, with_it = gradients(), gradients(commitment_weight=0.25)
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
  config.oracle.model.code_len, config.oracle.model.dict_size = length, size
  config.oracle.model.oracle_depth = config.oracle.model.base_model_depth = 1
  config.model.num_layers = 1
  config = resolve(config)
  oracle = make_model("vit", config.oracle.model, "config.oracle.model")
  # Only the language model knows them; the grid is resized to any length.
  image = jax.ShapeDtypeStruct((2, 512, 512, 3), np.float32)
  label = jax.ShapeDtypeStruct((2, 1024, 256), np.int32)
  params, code_BL = jax.eval_shape(
      functools.partial(_code_of, oracle), jax.random.key(0),
      {"semantics": label, "instances": label}, image)
  assert code_BL.shape == (2, length)
  assert tree.flatten(params).keys() == _paper_oracle().keys()
  assert all(x.shape == _paper_oracle()[name]
             for name, x in tree.flatten(params).items())

  words = make_model("lm", config.model, "config.model")
  assert _changed(shapes(words), _paper_lm()) <= {
      "decoder/EmbedTargets/embedding": (size + 1, 1024),
      "decoder/LogitsDense/kernel": (1024, size + 1),
      "decoder/LogitsDense/bias": (size + 1,),
      "pos_embedding_decoder": (1, length, 1024)}.items()
  assert (words.vocab_size, words.seq_len) == (size + 1, length)


def _code_of(model, rng, x, image):
  params = vit.init_params(model, rng)
  codebook = quantizer.init_codebook(rng, model.dict_size, model.codeword_dim)
  return params, vit.oracle_code(model, params, codebook, x, image)


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


def test_without_autoregression_word_embeddings_learn_nothing():
  image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))
  text = np.arange(10).reshape(2, 5) % 9 + 1

  def embedding_grad(**fields):
    model = lm.LM(**LM | dict(num_layers=1), **fields)
    loss = lambda params: jnp.sum(jnp.sin(model.apply(  # noqa: E731
        {"params": params}, image.astype(np.float32), text)))
    grads = jax.jit(jax.grad(loss))(random_params(shapes(model)))
    return np.asarray(grads["decoder"]["EmbedTargets"]["embedding"])

  assert embedding_grad().any()
  assert not embedding_grad(autoregressive=False).any()


def test_sizes_of_the_decoder_leave_the_encoder_alone():
  default = shapes(lm.LM(**LM))
  same = dict(zip(SMALLER, (2, 2, 16, 8), strict=True))
  assert shapes(lm.LM(**LM, **same)) == default
  found = shapes(lm.LM(**LM, **SMALLER))
  blocks = {k for k in default if "EncDecBlock1" in k}
  assert found.keys() == default.keys() - blocks
  for name, shape in found.items():
    if not name.startswith(("decoder/", "pos_embedding_decoder")):
      assert shape == default[name], name
  block = "decoder/EncDecBlock0/"
  for name, shape in {
      "SelfAttn/key/kernel": (12, 3, 4),
      "CrossAttn/query/kernel": (12, 3, 4),
      "CrossAttn/key/kernel": (8, 3, 4),  # Reads what the encoder wrote.
      "CrossAttn/out/kernel": (3, 4, 12),
      "MLP/Dense_0/kernel": (12, 20)}.items():
    assert found[block + name] == shape, name


def test_the_papers_text_has_a_vit_b_decoder():
  """ViT-L reads the image, ViT-B writes the code: not the quoted 939M."""
  base = lm_coco_panoptic.LM_MODELS["base"]
  found = shapes(paper_model(
      lm_coco_panoptic, decoder_layers=base["num_layers"],
      decoder_heads=base["num_heads"], decoder_mlp_dim=base["mlp_dim"],
      decoder_emb_dim=base["emb_dim"]))
  encoder = {k: v for k, v in found.items() if k.startswith("encoder/")}
  assert count(encoder) == LARGE_ENCODER
  width, image_width, mlp, words = 768, 1024, 3072, 4097
  block = (6 * width**2 + 2 * width * image_width  # Attention, no biases.
           + 2 * width * mlp + mlp + width + 3 * 2 * width)
  decoder = 12 * block + 2 * width + 2 * words * width + words
  outside = (16 * 16 * 3 + 1 + 1024) * image_width + 256 * width
  assert count(found) == LARGE_ENCODER + decoder + outside == 428_708_865


def test_a_smaller_decoder_samples_what_it_says():
  """The cache and the full pass agree: encoder and decoder differ in all."""
  model = lm.LM(**LM, **SMALLER)
  params = random_params(shapes(model))
  image = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 3)).astype(
      np.float32)
  got = decode.sample(model, params, image, np.arange(3), temperature=1.0)
  text_BL = np.asarray(got.code[:, 0]) + 1
  logits_BLV = jax.jit(model.apply)({"params": params}, image, text_BL)
  logp_BLV = np.asarray(jax.nn.log_softmax(logits_BLV))
  want_BL = np.take_along_axis(logp_BLV, text_BL[..., None], -1)[..., 0]
  np.testing.assert_allclose(got.logprob[:, 0], want_BL, atol=1e-5)


@pytest.mark.parametrize("fields,words", [
    (dict(decoder_layers=0), ["decoder_layers = 0"]),
    (dict(decoder_heads=3), ["decoder_heads = 3", "model.emb_dim = 8"]),
    (dict(decoder_emb_dim=9), ["num_heads = 2", "decoder_emb_dim = 9"]),
    (dict(decoder_emb_dim=6, posemb_type="sincos2d"), ["decoder_emb_dim = 6"])])
def test_sizes_of_the_decoder_that_do_not_fit_are_named(fields, words):
  lm.check_lm(**LM, **SMALLER)
  with pytest.raises(ConfigError) as error:
    lm.check_lm(**LM | fields)
  for word in words:
    assert word in str(error.value)


# Fig 10: what f makes of a code of which a region is masked.


@pytest.fixture(scope="module")
def code():
  """A codebook of 7 words and three codes on a 3×3 grid."""
  codebook = quantizer.init_codebook(jax.random.key(0), 7, 4)
  code_BL = np.random.default_rng(0).integers(0, 7, (3, 9)).astype(np.int32)
  return codebook, code_BL, np.asarray(quantizer.embed_code(codebook, code_BL))


def test_a_masked_region_is_replaced_and_nothing_else(code):
  codebook, code_BL, z_BLE = code
  inside = np.zeros((3, 3), bool)
  inside[1:3, 0:2] = True
  inside = inside.reshape(-1)
  words = np.asarray(quantizer.codewords(codebook))
  seeds = np.arange(3)
  for mask, allowed in (("zeros", np.zeros((1, 4))), ("random", words),
                        (5, words[5:6])):
    got = np.asarray(quantizer.mask_code(
        codebook, code_BL, mask, region=(1, 0, 3, 2), seeds_B=seeds))
    np.testing.assert_array_equal(got[:, ~inside], z_BLE[:, ~inside])
    for vector in got[:, inside].reshape(-1, 4):
      assert (vector == allowed).all(-1).any(), mask
    assert (got[:, inside] != z_BLE[:, inside]).any()
    whole = quantizer.mask_code(codebook, code_BL, mask, seeds_B=seeds)
    assert not (whole == z_BLE).all(-1).all(-1).any()
    nothing = quantizer.mask_code(codebook, code_BL, mask, region=(2, 2, 2, 3),
                                  seeds_B=seeds)
    np.testing.assert_array_equal(nothing, z_BLE)


def test_random_words_are_even_and_follow_from_the_seed_alone(code):
  codebook = code[0]
  code_BL, seeds = np.zeros((700, 9), np.int32), np.arange(700)

  def draw(rows):
    z_BLE = quantizer.mask_code(codebook, code_BL[rows], "random",
                                seeds_B=seeds[rows])
    return np.asarray(quantizer.lookup(codebook, z_BLE))

  words = draw(slice(None))
  share = np.bincount(words.reshape(-1), minlength=7) / words.size
  np.testing.assert_allclose(share, 1 / 7, atol=0.02)
  assert len(np.unique(words, axis=0)) > 690
  np.testing.assert_array_equal(draw([5, 5, 90]), words[[5, 5, 90]])


@pytest.mark.parametrize("mask,region,words", [
    ("zero", None, ["mask = 'zero'", "'zeros'", "0..6"]),
    (7, None, ["mask = 7", "0..6"]),
    (-1, None, ["mask = -1"]),
    (True, None, ["mask = True"]),
    ("zeros", (0, 0, 4, 1), ["mask_region = (0, 0, 4, 1)", "9 of them"]),
    ("zeros", (2, 0, 1, 1), ["(2, 0, 1, 1)"]),
    ("zeros", (0, 3), ["(0, 3)"])])
def test_masks_that_do_not_fit_are_named(code, mask, region, words):
  codebook, code_BL, _ = code
  with pytest.raises(ConfigError) as error:
    quantizer.mask_code(codebook, code_BL, mask, region=region)
  for word in words:
    assert word in str(error.value)
  if region is not None:
    with pytest.raises(ConfigError, match="8 of them"):
      quantizer.mask_code(codebook, code_BL[:, :8], mask, region=region)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
  """(stage I, its variables, stage II, its variables) on one oracle."""
  path = tmp_path_factory.mktemp("oracle") / "oracle.npz"
  stage1 = VqvaeStage(tiny.stage_i_config())
  tiny.save_stage_i(stage1, path)
  stage2 = LmStage(tiny.stage_ii_config(path))
  params = random_params(shapes(stage2.model))
  return stage1, stage2.frozen, stage2, {
      "params": params, "codebook": None, "frozen": stage2.frozen}


def predict(stage, variables, batch, name="predict", **options):
  return np.asarray(stage.jitted(name, **options)(variables, batch)["panoptic"])


def test_both_stages_mask_what_they_predict_from(stages):
  stage1, one, stage2, two = stages
  batch = tiny.batch()
  other = {**batch, "labels": batch["labels"][::-1]}
  by_label = predict(stage1, one, batch)
  assert (by_label != predict(stage1, one, other)).any()
  # All of it masked: no label, no language model is heard any more.
  for mask in ("zeros", 2):
    masked = predict(stage1, one, batch, mask=mask)
    np.testing.assert_array_equal(
        masked, predict(stage1, one, other, mask=mask))
    np.testing.assert_array_equal(
        masked, predict(stage2, two, batch, mask=mask))
    if mask == "zeros":
      np.testing.assert_array_equal(
          masked, predict(stage1, one, batch, "zero_code"))
  # Half of it: between the two.
  half = predict(stage1, one, batch, mask="random", mask_region=(0, 0, 1, 2))
  assert (half != by_label).any()
  assert (half != predict(stage1, one, batch, mask="random")).any()


def test_a_model_without_a_code_has_nothing_to_mask():
  stage = VqvaeStage(tiny.stage_i_config({"oracle_depth": 0}))
  with pytest.raises(ConfigError, match="oracle_depth is 0"):
    stage.predict({"params": {}, "codebook": None}, tiny.batch(), mask="zeros")
