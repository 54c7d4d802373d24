"""UViM.from_checkpoint: every form of checkpoint gives the same predictions."""

import functools
import json

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.lm import LmStage
from trainers.vqvae import VqvaeStage
from uvim import checkpoint, released
from uvim.models import infer, lm, make_model
from uvim.pipeline import UViM
from uvim.registry import ConfigError


@pytest.fixture(scope="module")
def stage_i(tmp_path_factory):
  stage = VqvaeStage(tiny.stage_i_config())
  path = tmp_path_factory.mktemp("weights") / "one.npz"
  tiny.save_stage_i(stage, path)
  return stage, path


@pytest.fixture(scope="module")
def stage_ii(stage_i):
  _, path = stage_i
  stage = LmStage(tiny.stage_ii_config(path))
  params, _ = jax.jit(stage.init)(jax.random.key(5))
  file = path.with_name("two.npz")
  checkpoint.save_npz(file, {"params": params})
  return stage, params, file


@pytest.fixture(scope="module")
def uvim(stage_i, stage_ii):
  return UViM.from_checkpoint(stage_i[1], lm=stage_ii[2])


def test_predicts_what_the_stages_predict(stage_ii, uvim):
  stage, params, _ = stage_ii
  batch = tiny.batch()
  expected = stage.predict({"params": params, "frozen": stage.frozen}, batch)
  got = uvim.predict(batch["image"], num_samples=2)
  for sample in (0, 1):  # At temperature 0 they are equal.
    np.testing.assert_array_equal(
        got.outputs["panoptic"][:, sample], expected["panoptic"])
  assert got.codes.shape == got.logprob.shape == (8, 2, tiny.LENGTH)


def test_encodes_and_decodes(stage_i, uvim):
  stage, _ = stage_i
  batch = tiny.batch(1)
  frozen = {"params": uvim._stage_i["params"],
            "codebook": uvim._stage_i["codebook"]}
  codes = uvim.encode(batch["image"], batch["labels"])
  np.testing.assert_array_equal(codes, stage.encode(frozen, batch))
  np.testing.assert_array_equal(
      uvim.decode(batch["image"], codes, min_fraction=0.1)["panoptic"],
      stage.predict(frozen, batch, min_fraction=0.1)["panoptic"])


@pytest.mark.parametrize("changes", [
    {}, {"with_encoder_ctx": False}, {"with_decoder_ctx": False},
    {"bottleneck_resize": False, "code_len": 3}, {"base_model_depth": 2}])
def test_fields_are_read_off_the_arrays(changes):
  stage = VqvaeStage(tiny.stage_i_config(model=changes))
  shapes = {k: tuple(s) for k, (s, _) in checkpoint.array_specs(
      stage.wanted_arrays()).items()}
  fields = infer.stage_i_fields(shapes, stage.model.code_len)
  for name, value in fields.items():
    assert value == getattr(stage.model, name), name
  assert infer.task_name(fields) == "panoptic_segmentation"


@pytest.mark.parametrize("changes", [
    {}, {"num_layers": 2},
    {"decoder_layers": 2, "decoder_heads": 1, "decoder_mlp_dim": 16,
     "decoder_emb_dim": 8}])
def test_fields_of_the_language_model_are_read_off_the_arrays(changes):
  config = tiny.stage_ii_config("none", changes)
  model = make_model("lm", config.model, "config.model")
  params = jax.eval_shape(
      functools.partial(lm.init_params, model), jax.random.key(0))
  shapes = {k: tuple(s) for k, (s, _) in checkpoint.array_specs(
      {"params": params}).items()}
  assert make_model("lm", infer.stage_ii_fields(shapes), "model") == model


@pytest.mark.parametrize("name,task", [
    ("panoptic", "panoptic_segmentation"), ("depth", "depth"),
    ("color", "colorization")])
def test_the_published_layouts_are_understood(fixtures, name, task):
  def shapes(stage):
    lines = (fixtures / f"param_tree_stage{stage}_{name}.txt").read_text()
    rows = (x.split("\t") for x in lines.splitlines() if x[0] != "#")
    return {name: tuple(json.loads(shape.replace("(", "[").replace(",)", "]")
                                   .replace(")", "]")))
            for name, shape, _ in rows}

  one, two = infer.stage_i_fields(shapes(1)), infer.stage_ii_fields(shapes(2))
  assert infer.task_name(one) == task
  assert one["input_size"] == two["input_size"] == (512, 512)
  assert (one["oracle_depth"], one["base_model_depth"]) == (6, 12)
  assert (one["width"], one["num_heads"], one["mlp_dim"]) == (768, 12, 3072)
  assert (two["num_layers"], two["emb_dim"], two["num_heads"]) == (24, 1024, 16)
  assert (two["seq_len"], two["vocab_size"]) == (256, 4097)


def test_a_name_means_both_stages(stage_i, stage_ii, monkeypatch, uvim):
  files = {"uvim-panoptic-stage1": stage_i[1], "uvim-panoptic-stage2":
           stage_ii[2]}
  monkeypatch.setattr(released, "fetch", lambda address: next(
      path for name, path in files.items()
      if released.MODELS[name] == address))
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
  with pytest.raises(ConfigError, match=r"\[n, 16, 16, 3\]"):
    uvim.predict(np.zeros((1, 8, 8, 3)))
  with pytest.raises(ConfigError, match="No checkpoint at nowhere.npz"):
    UViM.from_checkpoint("nowhere.npz")
