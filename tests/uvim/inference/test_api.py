"""UViM.from_checkpoint: every form of checkpoint gives the same predictions."""

import copy
import dataclasses
import gc
import json
import shutil
import sys
import weakref

import jax
import numpy as np
import pytest

from pp import builder
from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files, resize
from uvim.categories import Category
from uvim.codes import masking
from uvim.inference.api import UViM
from uvim.models import make_model
from uvim.priors.masked import MaskedPrior
from uvim.registry import ConfigError
from uvim.store import checkpoint, download, open_model, published, shapes


@pytest.fixture(scope="module")
def stage_i(tmp_path_factory):
  stage = VqvaeFamily(tiny.stage_i_config())
  path = tmp_path_factory.mktemp("weights") / "one.npz"
  tiny.save_stage_i(stage, path)
  return stage, path


@pytest.fixture(scope="module")
def stage_ii(stage_i):
  _, path = stage_i
  stage = LmFamily(tiny.stage_ii_config(path))
  params, _ = jax.jit(stage.init)(jax.random.key(5))
  file = path.with_name("two.npz")
  files.save_npz(file, {"params": params})
  return stage, params, file


@pytest.fixture(scope="module")
def uvim(stage_i, stage_ii):
  return UViM.from_checkpoint(stage_i[1], lm=stage_ii[2])


def test_predicts_what_the_stages_predict(stage_ii, uvim):
  stage, params, _ = stage_ii
  batch = tiny.batch()
  frozen = tiny.open_family(stage).frozen
  expected = stage.predict(stage.variables(params, {}, frozen), batch)
  got = uvim.predict(batch["image"], num_samples=2)
  for i, panoptic in enumerate(got.outputs["panoptic"]):
    for sample in (0, 1):  # At temperature 0 they are equal.
      np.testing.assert_array_equal(
          panoptic[sample], expected["panoptic"][i])
  assert got.codes.shape == got.logprob.shape == (8, 2, tiny.LENGTH)


def test_encodes_and_decodes(stage_i, uvim):
  stage, path = stage_i
  batch = tiny.batch(1)
  make = builder.build("make_canonical")
  batch["labels"] = np.stack([
      make({"labels": builder.tf.constant(x)})["labels"]
      for x in batch["labels"]])
  arrays = checkpoint.load_params(path)
  codes = uvim.encode(batch["image"], batch["labels"])
  np.testing.assert_array_equal(codes, stage.encode(arrays, batch))
  expected = stage.predict(arrays, batch, min_fraction=0.1)["panoptic"]
  got = uvim.decode(batch["image"], codes, min_fraction=0.1)
  np.testing.assert_array_equal(
      np.concatenate(got.outputs["panoptic"]), expected)
  # Labels of any size, their instances in any order.
  large = batch["labels"].repeat(3, 1).repeat(2, 2)
  large[..., 1] = np.where(large[..., 1] > 0, 99 - large[..., 1], 0)
  for i in range(8):
    label = uvim.task.label_at(large[i], uvim.model.vit.input_size)
    np.testing.assert_array_equal(label, batch["labels"][i])
  np.testing.assert_array_equal(
      uvim.encode(batch["image"][0], large[0]), codes[:1])


def photo(height, width, seed=0):
  return np.random.default_rng(seed).integers(
      0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def photos():
  return [photo(20, 31), photo(50, 9, 1), photo(16, 16, 2)]


def test_each_photo_has_one_answer_at_its_own_size(uvim, photos):
  options = dict(temperature=1.0, num_samples=3, seed=4)
  alone = [uvim.predict(x, **options) for x in photos]
  # Batches of 4, the last place of which is padded.
  together = uvim.predict(photos[::-1], batch_size=12, **options)
  for one, i in zip(alone, (2, 1, 0), strict=True):
    np.testing.assert_array_equal(one.codes[0], together.codes[i])
    np.testing.assert_allclose(
        one.logprob[0], together.logprob[i], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(
        one.outputs["panoptic"][0], together.outputs["panoptic"][i])
  assert [x.shape for x in together.outputs["panoptic"]] == [
      (3, 16, 16, 2), (3, 50, 9, 2), (3, 20, 31, 2)]
  # The first samples are the same however many there are.
  fewer = uvim.predict(photos[0], temperature=1.0, seed=4)
  np.testing.assert_array_equal(fewer.codes[0, 0], alone[0].codes[0, 0])
  other = uvim.predict(photos, temperature=1.0, num_samples=3, seed=5)
  assert (other.codes != together.codes[::-1]).any()
  assert len({together.codes[0, s].tobytes() for s in range(3)}) > 1


class Watched:
  """A prior that notes the shapes of the batches that it samples for."""

  def __init__(self, prior):
    self._prior = prior
    self.shapes = []

  def __getattr__(self, name):
    return getattr(self._prior, name)

  def sample(self, params, image, seeds_B, **options):
    self.shapes.append(image.shape)
    assert len(seeds_B) == len(image)
    return self._prior.sample(params, image, seeds_B, **options)


def test_images_of_all_sizes_share_the_batches(stage_i, stage_ii, photos):
  opened = open_model.open_model(stage_i[1], lm=stage_ii[2])
  prior = Watched(opened.prior)
  model = UViM(dataclasses.replace(opened, prior=prior))
  nine = [*photos, *photos, *photos]
  got = model.predict(nine, batch_size=4)
  # The last one alone fills the places of a batch.
  assert prior.shapes == [(4, 16, 16, 3)] * 3 and len(got) == 9
  for i in range(3, 9):
    # Whatever the others of the batch are.
    np.testing.assert_array_equal(got.logprob[i], got.logprob[i - 3])
  one_by_one = model.predict(nine, batch_size=1)
  assert prior.shapes[3:] == [(1, 16, 16, 3)] * 9
  np.testing.assert_array_equal(got.codes, one_by_one.codes)
  for together, alone in zip(
      got.outputs["panoptic"], one_by_one.outputs["panoptic"], strict=True):
    np.testing.assert_array_equal(together, alone)


def test_given_words_are_those_of_their_image(uvim, photos):
  given = np.arange(12).reshape(3, 4) % tiny.WORDS
  given[:, 2:] = -1
  got = uvim.predict(photos, given=given, batch_size=2)
  np.testing.assert_array_equal(got.codes[:, 0, :2], given[:, :2])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "8", 5000])
def test_a_batch_size_that_cannot_be(uvim, photos, batch_size):
  for method in (uvim.predict, uvim.sample):
    with pytest.raises(ConfigError, match="batch_size = .*1..4096"):
      method(photos[0], batch_size=batch_size)


def test_a_prediction_knows_what_its_classes_are(uvim, photos):
  named = copy.copy(uvim)
  named.categories = tuple(
      Category(10 * i, f"kind {i}", True) for i in range(1, tiny.CLASSES))
  got = named.predict(photos[2])
  assert got.best().one(0).categories == named.categories
  assert uvim.predict(photos[2]).categories == ()


def test_programs_do_not_pile_up(stage_i):
  opened = UViM.from_checkpoint(stage_i[1])
  for number in range(20):
    opened._programs.base_model((("min_fraction", number / 1000),))
  assert opened._programs.base_model.cache_info().currsize < 20
  # What a program refers to goes with the model.
  alive = weakref.ref(opened)
  del opened
  gc.collect()
  assert alive() is None


def test_seeds_that_jax_would_cut_are_refused(uvim, photos):
  for seed in (-1, 2**32, 1.5, True, None, "1", 2**70):
    with pytest.raises(ConfigError, match="seed = .*0..4294967295"):
      uvim.predict(photos[0], seed=seed)
    with pytest.raises(ConfigError, match="seed = "):
      uvim.mask_codes(np.zeros((1, 4), int), None, "random", seed=seed)
  uvim.predict(photos[2], seed=2**32 - 1)


def test_floats_from_0_to_1_need_their_range(uvim, photos):
  with pytest.raises(ConfigError, match="value_range"):
    uvim.predict(photos[2] / 255)
  got = uvim.predict(photos[2] / 255, value_range=(0, 1))
  expected = uvim.predict(photos[2])
  np.testing.assert_array_equal(
      resize.to_bytes(got.photos[0]), expected.photos[0])
  np.testing.assert_array_equal(got.codes, expected.codes)


def test_likelihoods_and_the_best_sample(uvim, photos):
  got = uvim.predict(photos, temperature=1.0, num_samples=3, seed=4)
  np.testing.assert_allclose(
      uvim.log_prob(photos, got.codes), got.logprob, atol=1e-5)
  best = got.best()
  np.testing.assert_array_equal(
      best.log_likelihood[:, 0], got.log_likelihood.max(1))
  for i, s in enumerate(got.log_likelihood.argmax(1)):
    np.testing.assert_array_equal(
        best.outputs["panoptic"][i][0], got.outputs["panoptic"][i][s])
  assert best.settings == dict(
      temperature=1.0, seed=4, num_samples=3, top_k=None, top_p=None,
      soft_words=None, soft_inputs=None, drop_below=None, reduce=None,
      rerank=True, min_fraction=0.0, instance_label="logit_sum")
  with pytest.raises(ConfigError, match="no likelihood"):
    uvim.log_prob(photos[0], np.full((1, tiny.LENGTH), -1))


def test_one_answer_of_several_samples(uvim, photos):
  options = dict(temperature=1.0, num_samples=3, seed=4)
  all_of_them = uvim.predict(photos, **options)
  got = uvim.predict(photos, reduce="likelihood", **options)
  best = all_of_them.best()
  np.testing.assert_array_equal(got.codes, best.codes)
  np.testing.assert_array_equal(got.logprob, best.logprob)
  got = uvim.predict(photos, reduce="agreement", **options)
  assert got.num_samples == 1 and got.settings["reduce"] == "agreement"
  for i in range(3):
    s = np.flatnonzero(
        (all_of_them.codes[i] == got.codes[i, 0]).all(-1))[0]
    np.testing.assert_array_equal(
        got.outputs["panoptic"][i][0], all_of_them.outputs["panoptic"][i][s])
  for options, message in ((dict(reduce="mean"), "instances have no mean"),
                           (dict(reduce=3), "reduce = 3; it must be None or"),
                           (dict(drop_below=1), "drop_below = 1; it must be")):
    with pytest.raises(ConfigError, match=message):
      uvim.predict(photos, **options)


def test_given_words_stay_and_are_never_dropped(uvim, photos):
  given = np.full((3, tiny.LENGTH), -1)
  given[:, 1:3] = (5, 2)
  got = uvim.predict(photos, given=given, temperature=1.0, num_samples=2)
  assert (got.codes[..., 1:3] == (5, 2)).all()
  np.testing.assert_array_equal(
      uvim.sample(photos, given=given, temperature=1.0, num_samples=2).code,
      got.codes)
  # This prior has learned nothing: it gives each word an eighth.
  got = uvim.predict(photos, given=given, drop_below=0.9)
  np.testing.assert_array_equal(got.codes[:, 0], given)
  assert got.settings["given"] == given.tolist()
  # What is recorded is what f has read.
  np.testing.assert_array_equal(
      got.outputs["panoptic"][0],
      uvim.decode(photos[0], got.codes[:1]).outputs["panoptic"][0])
  with pytest.raises(ConfigError, match="given has 2 codes for each image"):
    uvim.predict(photos, given=np.zeros((3, 2, 4), int))
  with pytest.raises(ConfigError, match="Codes of shape"):
    uvim.sample(photos, given=given[0])


def test_options_of_another_prior_are_named(uvim):
  other = copy.copy(uvim)
  other.prior = MaskedPrior(uvim.prior.lm)
  with pytest.raises(
      ConfigError, match="soft_words = 1.0 is an option of style 'ar'"):
    other.check_options(soft_words=1.0)


def test_soft_words_are_read_in_place_of_the_code(uvim, photos):
  hard = uvim.predict(photos[0])
  soft = uvim.predict(photos[0], soft_words=1.0)
  np.testing.assert_array_equal(soft.codes, hard.codes)
  assert soft.settings["soft_words"] == 1.0
  assert (soft.outputs["panoptic"][0] != hard.outputs["panoptic"][0]).any()


@pytest.mark.parametrize("mode", ["zeros", 3])
def test_masked_codes_are_those_of_the_quantizer(stage_i, uvim, photos, mode):
  codes = np.array([[1, 2, 3, 4]])
  masked = uvim.mask_codes(codes, (0, 1, 2, 2), mode)
  assert masked[0, [0, 2]].tolist() == [1, 3]
  same = uvim.mask_codes(codes, [[False, True]] * 2, mode)
  np.testing.assert_array_equal(masked, same)
  arrays = checkpoint.load_params(stage_i[1])
  code, dropped = masking.mask_code(
      codes, mode, tiny.WORDS, region=(0, 1, 2, 2))
  z_BLE = uvim.model.embed(arrays, code, dropped)
  context = resize.to_model(photos[2], uvim.model.vit.input_size)[None]
  logits = jax.jit(uvim.model.base_model)(arrays, z_BLE, context)
  np.testing.assert_array_equal(
      uvim.decode(photos[2], masked).outputs["panoptic"][0],
      uvim.task.outputs(logits)["panoptic"])


def test_random_masks(uvim):
  codes = np.arange(8).reshape(2, 4)
  one, again, other = (uvim.mask_codes(codes, None, "random", seed=s)
                       for s in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  assert (one != other).any() and one.min() >= 0 and one.max() < tiny.WORDS
  np.testing.assert_array_equal(
      one[1], uvim.mask_codes(codes[1:], None, "random")[0])
  for bad in ((0, 0, 3, 1), (1, 0, 0, 1), (0, 0, 1)):
    with pytest.raises(ConfigError, match="region"):
      uvim.mask_codes(codes, bad)
  with pytest.raises(ConfigError, match="'zeros', 'random' or"):
    uvim.mask_codes(codes, None, 8)


def test_codes_that_cannot_be(uvim, photos):
  for bad in (np.zeros((1, 3), int), np.full((1, 4), 8), np.full((1, 4), -2),
              np.zeros((1, 4)), np.zeros((2, 4), int),
              np.zeros((1, 0, 4), int)):
    with pytest.raises(ConfigError, match="Codes of"):
      uvim.decode(photos[0], bad)


def test_the_plot_shows_photo_and_samples(uvim, photos):
  got = uvim.predict(photos, num_samples=2)
  sheet = np.asarray(got.plot(height=40, plain=True))
  assert sheet.shape == (3 * 46 - 6, 3 * 62 + 2 * 6, 3)
  drawn = got.pictures()[2][1]
  assert drawn.shape == (16, 16, 3)
  corner = sheet[92:132, 92:132][20, 20]  # Third row, second of its samples.
  assert (drawn.reshape(-1, 3) == corner).all(1).any()


def test_no_tensorflow_is_needed(uvim, photos, monkeypatch):
  for name in ("tensorflow", "tensorflow_datasets"):
    monkeypatch.setitem(sys.modules, name, None)  # An import of it raises.
  got = uvim.predict(photos[0])
  uvim.encode(photos[0], got.outputs["panoptic"][0][0])


@pytest.mark.parametrize("changes", [
    {}, {"with_encoder_ctx": False}, {"with_decoder_ctx": False},
    {"bottleneck": "linear", "code_len": 3},
    {"bottleneck": "latent", "code_len": 3}, {"base_model_depth": 2}])
def test_fields_are_read_off_the_arrays(changes):
  stage = VqvaeFamily(tiny.stage_i_config(model=changes))
  arrays = {k: tuple(s) for k, (s, _) in checkpoint.array_specs(
      stage.wanted_arrays()).items()}
  fields = shapes.stage_i_fields(arrays, stage.model.spec.length)
  made = make_model("vit", fields, "model")
  assert made == stage.model
  assert shapes.task_name(fields) == "panoptic_segmentation"


@pytest.mark.parametrize("changes", [
    {}, {"num_layers": 2},
    {"decoder_layers": 2, "decoder_heads": 1, "decoder_mlp_dim": 16,
     "decoder_emb_dim": 8}])
def test_fields_of_the_language_model_are_read_off_the_arrays(changes):
  config = tiny.stage_ii_config("none", changes)
  model = make_model("lm", config.model, "config.model")
  params = jax.eval_shape(model.init, jax.random.key(0))
  arrays = {k: tuple(s) for k, (s, _) in checkpoint.array_specs(
      {"params": params}).items()}
  assert make_model("lm", shapes.stage_ii_fields(arrays), "model") == model


@pytest.mark.parametrize("name,task", [
    ("panoptic", "panoptic_segmentation"), ("depth", "depth"),
    ("color", "colorization")])
def test_the_published_layouts_are_understood(fixtures, name, task):
  def arrays(stage):
    lines = (fixtures / f"param_tree_stage{stage}_{name}.txt").read_text()
    rows = (x.split("\t") for x in lines.splitlines() if x[0] != "#")
    return {name: tuple(json.loads(shape.replace("(", "[").replace(",)", "]")
                                   .replace(")", "]")))
            for name, shape, _ in rows}

  one = shapes.stage_i_fields(arrays(1))
  two = shapes.stage_ii_fields(arrays(2))
  assert shapes.task_name(one) == task
  assert one["input_size"] == two["input_size"] == (512, 512)
  assert (one["oracle_depth"], one["base_model_depth"]) == (6, 12)
  assert (one["width"], one["num_heads"], one["mlp_dim"]) == (768, 12, 3072)
  assert (two["num_layers"], two["emb_dim"], two["num_heads"]) == (24, 1024, 16)
  assert (two["seq_len"], two["vocab_size"]) == (256, 4097)


def test_a_name_means_both_stages(stage_i, stage_ii, monkeypatch, uvim,
                                  tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  for name, path in (("uvim-panoptic-stage1", stage_i[1]),
                     ("uvim-panoptic-stage2", stage_ii[2])):
    # As if they were fetched before.
    fetched = download.cache_path(published.MODELS[name])
    fetched.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, fetched)
  named = UViM.from_checkpoint("uvim-panoptic")
  image = tiny.batch(2)["image"]
  np.testing.assert_array_equal(
      named.predict(image).codes, uvim.predict(image).codes)


def test_clear_errors(stage_i, stage_ii, uvim):
  with pytest.raises(ConfigError, match="stage 2; stage 1 is needed"):
    UViM.from_checkpoint(stage_ii[2])
  with pytest.raises(ConfigError, match="no language model"):
    UViM.from_checkpoint(stage_i[1], code_len=4).predict(
        tiny.batch()["image"])
  with pytest.raises(ConfigError, match="no such file"):
    uvim.predict("nowhere.jpg")
  with pytest.raises(ConfigError, match="No checkpoint at nowhere.npz"):
    UViM.from_checkpoint("nowhere.npz")
