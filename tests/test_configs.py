"""Every shipped config builds; Appendix D is followed to the letter."""

import dataclasses
import functools
import importlib
import json
import math
import pathlib

import jax
import pytest

from configs import common, quantizers
from pp import builder
from tests import listings
from tools import config_docs
from trainers import config_file
from trainers.families.lm import LmFamily
from uvim import fields
from uvim.config import (
  EvalConfig,
  OracleConfig,
  TrainConfig,
  from_json,
  resolve,
)
from uvim.models import make_model
from uvim.models.guided import GuidedModel
from uvim.priors.masked import Masking
from uvim.registry import ConfigError

CONFIGS = {
    "vqvae_coco_panoptic": ("", "singlehost", "runlocal"),
    "lm_coco_panoptic": ("", "singlehost", "runlocal", "res=1280"),
    "vqvae_nyu_depth": ("", "singlehost", "runlocal", "scenes"),
    "lm_nyu_depth": ("", "singlehost", "runlocal", "scenes"),
    "vqvae_imagenet_colorization": ("", "singlehost", "runlocal", "fid"),
    "lm_imagenet_colorization": ("", "singlehost", "runlocal", "fid"),
    "vqvae_rooms_panoptic": (
        "", "tiny", "encoder=mae", "fsq", "latent", "hard"),
    "lm_rooms_panoptic": (
        "", "tiny", "encoder=mae", "fsq", "latent", "masked", "hard"),
    "vqvae_rooms_depth": ("", "tiny", "hard"),
    "lm_rooms_depth": ("", "tiny", "hard"),
    "vqvae_rooms_colorization": ("", "tiny"),
    "lm_rooms_colorization": ("", "tiny"),
    "vqvae_rooms_normals": ("", "tiny"),
    "lm_rooms_normals": ("", "tiny"),
    "vqvae_camvid_panoptic": ("", "encoder=none"),
    "lm_camvid_panoptic": ("", "encoder=none",
                           "encoder=none,stage1_encoder=dinov2-S/14"),
    "mae_images": ("", "res=112", "batch_size=256,num_images=5000,epochs=20"),
    "mae_rooms": ("", "tiny"),
    "dino_rooms": ("", "jitter", "tiny"),
    "pix2seq_d_rooms_panoptic": ("", "tiny"),
    "pix2seq_d_rooms_video": ("", "tiny"),
    "pix2seq_d_coco_panoptic": ("", "highres", "runlocal", "tiny"),
}
# Examples of the train splits.
COCO_TRAIN = 118_287
NYU_TRAIN = 47_584
IMAGENET_TRAIN = 1_281_167


def get(name, arg=None):
  return importlib.import_module(f"configs.{name}").get_config(arg)


def names_and_arguments():
  """Every config file with each of its arguments."""
  pairs = []
  for name, arguments in CONFIGS.items():
    for argument in arguments:
      pairs.append((name, argument))
  return pairs


def model_of(config):
  return make_model(config.model_name, config.model, "config.model")


@functools.cache
def shapes_of(model):
  """The shapes of a model's parameters."""
  arrays = jax.eval_shape(model.init, jax.random.key(0))
  return arrays["params"] if isinstance(model, GuidedModel) else arrays


def test_every_config_file_is_listed():
  folder = pathlib.Path(__file__).parents[1] / "configs"
  names = {path.stem for path in folder.glob("*.py")}
  shared = {"__init__", "common", "quantizers", "rooms", "small"}
  assert names - shared == set(CONFIGS)


@pytest.mark.parametrize("name,arg", names_and_arguments())
def test_config_builds(name, arg):
  config = resolve(get(name, arg))
  assert name.startswith(f"{config.kind}_")
  assert jax.tree.leaves(shapes_of(model_of(config)))
  strings = [config.pp_train, config.pp_eval]
  strings += [block.pp for block in config.evals]
  for pp in strings:
    builder.build(pp, config.pp_modules)


@pytest.fixture(scope="module")
def seeds(shared):
  return shared / "seeds" / "000_ca110d2b4088f852.txt"


def leaves(node, path="config"):
  """The values of nested dicts by path."""
  if not isinstance(node, dict):
    return {path: node}
  found = {}
  for key, value in node.items():
    found |= leaves(value, f"{path}.{key}")
  return found


@pytest.mark.parametrize("number,name", [(1, "vqvae_coco_panoptic"),
                                         (2, "lm_coco_panoptic")])
def test_equals_appendix_d(seeds, number, name):
  listing = listings.load(seeds, number).get_config()
  listing = listing.copy_and_resolve_references().to_dict()
  ours = get(name).copy_and_resolve_references().to_dict()
  ours_by_path = leaves(ours)
  listing_by_path = leaves(listing)
  assert len(listing_by_path) > 40
  for path, value in listing_by_path.items():
    assert path in ours_by_path, f"{path} is missing"
    found = ours_by_path[path]
    if path.split(".")[-1] in ("pp_train", "pp_eval", "pp"):
      value = builder.parse(value)
      found = builder.parse(found)
    assert value == found, f"{path}: {found!r}, the listing has {value!r}"

  # What we add to the listing, so that nothing else creeps in.
  ours_only = {"data_dir", "seed", "mesh", "sharding", "grad_accum_steps",
               "skip_bad_steps", "on_bad_example", "on_other_data",
               "codes_per_image", "feature_cache"}
  if "oracle" in ours:
    ours_only |= {"code_cache"}
  assert set(ours) - set(listing) == ours_only
  for block_name, _ in ours["evals"]:
    added = set(ours[block_name]) - set(listing[block_name])
    assert added == {"pred_kw"}


def test_the_other_print_says_eval(seeds):
  listing = listings.load(seeds, 2).get_config()
  with listing.unlocked():
    listing.eval = listing.evals
    del listing.evals
  with pytest.raises(ConfigError, match="config.evals"):
    resolve(listing)


@pytest.mark.parametrize("name,arg,examples,steps", [
    ("vqvae_coco_panoptic", None, COCO_TRAIN - 4096, 111_515),
    ("vqvae_coco_panoptic", "singlehost", COCO_TRAIN - 4096, 89_212),
    ("lm_coco_panoptic", None, COCO_TRAIN - 4096, 44_606),
    ("vqvae_nyu_depth", None, NYU_TRAIN, 9_294),
    ("lm_nyu_depth", None, NYU_TRAIN, 4_647),
    ("vqvae_imagenet_colorization", None, IMAGENET_TRAIN - 4096, 124_714),
    ("lm_imagenet_colorization", None, IMAGENET_TRAIN - 4096, 124_714)])
def test_step_counts(name, arg, examples, steps):
  assert resolve(get(name, arg)).num_steps(examples) == steps


@pytest.mark.parametrize("name,arg,count", [
    ("vqvae_coco_panoptic", None, 223_593_984),
    ("vqvae_nyu_depth", None, 232_249_600),
    ("vqvae_imagenet_colorization", None, 132_701_184),
    ("lm_coco_panoptic", None, 715_729_921),
    ("lm_coco_panoptic", "res=1280", 721_234_945),
    ("lm_nyu_depth", None, 715_729_921),
    ("lm_imagenet_colorization", None, 715_729_921)])
def test_parameter_counts(name, arg, count):
  model = model_of(resolve(get(name, arg)))
  assert sum(x.size for x in jax.tree.leaves(shapes_of(model))) == count


# As Parti's table names its models.
PARTI = {"350M": 350e6, "750M": 750e6, "3B": 3e9, "20B": 20e9}


# The other two differ from these in a depth or a width.
@pytest.mark.parametrize("size", ["350M", "20B"])
def test_sizes_of_parti_have_the_published_counts(size):
  config = resolve(get("lm_coco_panoptic", f"size={size}"))
  shapes = jax.tree.leaves(shapes_of(model_of(config)))
  count = sum(x.size for x in shapes)
  assert count == pytest.approx(PARTI[size], rel=0.04)
  # No pretrained ViT has this depth, so no part learns more slowly.
  assert config.model_init == {"encoder": ""} and not config.lr_mults


def test_blocks_of_all_sizes_of_parti():
  for size, published in PARTI.items():
    model = get("lm_coco_panoptic", f"size={size}").model
    width = model.emb_dim
    mlp = 2 * width * model.mlp_dim
    # One attention in a block of the encoder, two in one of the decoder.
    encoder = model.num_layers * (4 * width**2 + mlp)
    decoder = model.decoder_layers * (8 * width**2 + mlp)
    assert encoder + decoder == pytest.approx(published, rel=0.03), size
    assert width // model.num_heads == 64
    # To compile each of many layers would take very long.
    assert model.scan_layers == (model.decoder_layers > 24)


def test_a_size_that_is_none():
  with pytest.raises(ValueError, match="size='7B' must be one of base, large"):
    get("lm_coco_panoptic", "size=7B")


@pytest.mark.parametrize("prefix,name", [
    ("panoptic", "vqvae_coco_panoptic"), ("panoptic", "lm_coco_panoptic"),
    ("color", "vqvae_imagenet_colorization"),
    ("color", "lm_imagenet_colorization")])
def test_holdout_never_enters_training(prefix, name):
  """BEHAVIOURS 17: training starts where the hold-out ends."""
  config = resolve(get(name))
  splits = {e.name: e.split for e in config.evals}
  assert config.train_split == "train[4096:]"
  assert config.val_split == splits[f"{prefix}_holdout"] == "train[:4096]"
  assert splits[f"{prefix}_train"] == "train[4096:8192]"


@pytest.mark.parametrize("name", ["vqvae_nyu_depth", "lm_nyu_depth"])
def test_held_out_scenes_are_never_trained_on(name):
  """BEHAVIOURS 14: `scenes` trains on a split that has none of the 14."""
  config = resolve(get(name, "scenes"))
  assert (config.train_split, config.val_split) == ("train", "holdout")


@pytest.mark.parametrize("name", ["vqvae_imagenet_colorization",
                                  "lm_imagenet_colorization"])
def test_scored_color_images_are_squares_first(name):
  """BEHAVIOURS 15: centre-cropped before the resize, and so is the truth."""
  config = resolve(get(name))
  for block in config.evals:
    ops = [op.name for op in builder.parse(block.pp)]
    assert ops[:3] == ["decode", "central_crop", "resize"], block.name
    if block.type == "psnr":
      truth = [op.name for op in builder.parse(block.options["pp_truth"])]
      assert truth[:3] == ops[:3]
  assert "inception_crop" in config.pp_train


def test_unknown_keys_name_their_path_and_the_nearest():
  config = get("vqvae_rooms_panoptic")
  with config.unlocked():
    config.num_epoch = 3
  with pytest.raises(ConfigError, match="config.num_epoch' = 3.*num_epochs"):
    resolve(config)
  config = get("vqvae_rooms_panoptic")
  with config.unlocked():
    config.zero_code.log_step = 3
  with pytest.raises(ConfigError, match="zero_code.log_step.*log_steps"):
    resolve(config)
  config = get("vqvae_rooms_panoptic")
  config.model["dict_sizes"] = 3
  with pytest.raises(ConfigError, match="model.dict_sizes.*dict_size"):
    make_model("vit", resolve(config).model, "config.model")


def test_evaluators_fall_back_to_the_top_level():
  config = resolve(get("vqvae_coco_panoptic"))
  evals = {e.name: e for e in config.evals}
  assert evals["panoptic_val"].dataset == "coco/2017_panoptic"
  assert evals["panoptic_val"].batch_size == 1024
  assert evals["val"].type == "mean"  # val_split + pp_eval + log_eval_steps.
  assert evals["val"].log_steps == 250


def test_shared_objects_and_references_resolve_after_overrides():
  config = get("lm_coco_panoptic")
  config.oracle.model.dict_size = 1024
  config.oracle.model.inputs.semantics = (5, 256)
  resolved = resolve(config)
  assert resolved.model["vocab_size"] == 1025
  assert resolved.oracle.model["outputs"]["semantics"] == (5, 256)


def test_the_vocabulary_is_that_of_the_quantizer():
  resolved = resolve(get("lm_rooms_panoptic", "fsq"))
  assert resolved.oracle.model["levels"] == (8, 6, 5)
  assert resolved.model["vocab_size"] == 241
  # Whoever changes the levels learns what else to change.
  config = get("lm_rooms_panoptic", "fsq")
  config.oracle.model.levels = (5, 5, 5, 5)
  with pytest.raises(ConfigError, match="dict_size = 240; it must be 625"):
    make_model("vit", resolve(config).oracle.model, "config.oracle.model")


@pytest.mark.parametrize("task", [
    "rooms_panoptic", "rooms_depth", "coco_panoptic", "nyu_depth",
    "imagenet_colorization"])
@pytest.mark.parametrize("is_small", [False, True])
def test_stage_ii_fits_every_quantizer_that_configs_name(task, is_small):
  size = ""
  if is_small:
    size = ",tiny" if task.startswith("rooms") else ",runlocal"

  def bits(spec):
    return spec.words_per_place * math.log2(spec.num_words)

  wanted = bits(model_of(resolve(get(f"vqvae_{task}", size))).spec)
  for name in quantizers.ARGUMENTS:
    model = model_of(resolve(get(f"vqvae_{task}", name + size)))
    config = resolve(get(f"lm_{task}", name + size))
    model_of(config).check_code(model.spec, "config.model")
    oracle = make_model("vit", config.oracle.model, "config.oracle.model")
    assert oracle.quantizer == model.quantizer
    if not model.spec.is_discrete:
      continue
    # As nearly as levels allow.
    assert bits(model.spec) == pytest.approx(wanted, abs=0.1)
  with pytest.raises(ValueError, match="fsq, gumbel: a model has one"):
    get(f"vqvae_{task}", "gumbel,fsq")


def test_a_masked_prior_is_scored_without_chance():
  resolved = resolve(get("lm_rooms_panoptic", "masked"))
  prior = make_model("lm", resolved.model, "config.model")
  # What the config names is what holds without it.
  assert prior.masking == Masking()
  options = get("lm_rooms_panoptic", "masked").uvim.pred_kw
  assert options.temperature == options.choice_temperature == 0
  assert set(prior.options) <= set(options)


def test_config_arguments():
  with pytest.raises(common.UnknownArgument, match="singlehost"):
    get("vqvae_coco_panoptic", "singlehosts")
  with pytest.raises(ValueError, match="int"):
    get("lm_coco_panoptic", "res=big")
  assert get("lm_coco_panoptic", "res=1280").model.input_size == (1280, 1280)
  # The image of f and the oracle stays at label size (BEHAVIOURS 31).
  assert "resize(512, inkey" in get("lm_coco_panoptic", "res=1280").pp_train


def test_config_comes_back_from_json():
  config = resolve(get("lm_rooms_panoptic"))
  saved = json.loads(json.dumps(config.to_json()))
  assert from_json(saved).to_json() == saved
  # Version 0.1.0 wrote no kind.
  del saved["kind"]
  assert from_json(saved).kind == "lm"
  saved["oracle"]["tsak"] = "depth"
  with pytest.raises(ConfigError, match="config.oracle.tsak.*oracle.task'"):
    from_json(saved)


def test_home_is_expanded_in_every_path(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  config = get("lm_rooms_panoptic").to_dict()
  config["data_dir"] = "~/data"
  config["code_cache"] = "~/codes"
  config["feature_cache"] = "~/features"
  config["model_init"] = {"encoder": "~/vit.npz", "base_model": "gs://b/~"}
  config["oracle"]["model_init"] = "~/one"
  config["uvim"]["data_dir"] = "~/other"
  resolved = resolve(config)
  assert resolved.data_dir == "/home/me/data"
  assert resolved.code_cache == "/home/me/codes"
  assert resolved.feature_cache == "/home/me/features"
  assert resolved.model_init == {
      "encoder": "/home/me/vit.npz", "base_model": "gs://b/~"}
  assert resolved.oracle.model_init == "/home/me/one"
  evals = {block.name: block for block in resolved.evals}
  assert evals["uvim"].data_dir == "/home/me/other"
  assert evals["zero_code"].data_dir == "/home/me/data"


@pytest.mark.parametrize("change,message", [
    ({"seed": -1}, r"config.seed = -1; .* an integer in 0\.\.4294967295"),
    ({"seed": 2**32}, "config.seed = 4294967296"),
    ({"lr": float("nan")}, "config.lr = nan; it must be a number ≥ 0"),
    ({"total_steps": -5}, "config.total_steps = -5"),
    ({"dataset": 7}, "config.dataset = 7; it must be a text"),
    ({"model": None}, "config.model = None; it must be a block"),
    ({"evals": 5}, "config.evals = 5; it must be a list"),
    ({"evals": [5]}, "config.evals holds 5"),
    ({"zero_code": 5}, "config.zero_code = 5; it must be a block"),
    ({"oracle": "one.npz"}, "config.oracle = 'one.npz'; it must be a block"),
    ({"on_other_data": "warm"}, "Did you mean 'warn'"),
    ({"batch_size": 0}, "config.batch_size = 0; it must be an integer ≥ 1"),
    ({"batch_size": 8.0}, "config.batch_size = 8.0"),
    ({"skip_bad_steps": -1}, "config.skip_bad_steps = -1.*≥ 0"),
    ({"on_bad_example": "skpi"}, "error, skip. Did you mean 'skip'"),
    ({"grad_accum_steps": 3}, "grad_accum_steps = 3 does not divide"),
    ({"num_epochs": 3}, "num_epochs and config.total_steps; got 3 and 10000"),
    ({"code_cache": "codes"}, "code_cache is for stage II"),
    ({"model_name": "vti"}, "config.model_name 'vti'. Did you mean 'vit'"),
    ({"evals": [("zero_code",)]}, r"holds \('zero_code',\)"),
    ({"evals": [("seed", "mean")]}, "names 'seed', which is a field"),
    ({"evals": [("loss", "mean")]}, "no block 'config.loss'"),
    ({"zero_code": {"split": "train"}}, "Missing key 'config.zero_code.pp'")])
def test_wrong_values_are_named(change, message):
  config = get("vqvae_rooms_panoptic").to_dict()
  config.update(change)
  with pytest.raises(ConfigError, match=message):
    resolve(config)


@pytest.mark.parametrize("style,is_scored", [("ar", True), ("masked", False)])
def test_soft_words_are_scored_where_there_are_any(style, is_scored):
  path = pathlib.Path(__file__).parents[1] / "configs/lm_camvid_panoptic.py"
  config = resolve(config_file.load_config(
      f"{path}:encoder=none", [f"--config.model.style={style}"]))
  names = [block.name for block in config.evals]
  assert ("uvim_soft" in names) == is_scored
  family = LmFamily(config)
  for block in config.evals:
    family.check_options(block.pred, block.pred_kw, block.name)


@pytest.mark.parametrize("config_class",
                         [TrainConfig, EvalConfig, OracleConfig])
def test_fields_are_described(config_class):
  for field in fields.fields_of(config_class).values():
    assert field.doc.endswith((".", ")")), field.name
    assert field.source


def test_docs_are_those_of_the_code():
  """A new field is a decision: its description gets into docs/configs.md."""
  is_current = config_docs.PAGE.read_text() == config_docs.page()
  assert is_current, "run: python -m tools.config_docs"


def test_docs_name_every_field():
  page = config_docs.page()
  for config_class in (TrainConfig, EvalConfig, OracleConfig):
    prefix = "oracle." if config_class is OracleConfig else ""
    for field in dataclasses.fields(config_class):
      rows = page.count(f"\n| `{prefix}{field.name}` |")
      assert rows >= 1, field.name


@pytest.mark.parametrize("arg,steps,lr", [
    ("", 12_511, 2.4e-3), ("batch_size=256,num_images=5120,epochs=20", 20,
                           1.5e-4)])
def test_the_warm_up_of_mae_is_a_twentieth_of_the_run(arg, steps, lr):
  config = resolve(get("mae_images", arg))
  assert config.schedule["warmup_steps"] == steps
  assert config.lr == pytest.approx(lr)
  assert config.wd == pytest.approx(0.05 * lr)
