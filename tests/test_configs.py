"""Every shipped config builds; Appendix D is followed to the letter."""

import functools
import importlib
import pathlib

import jax
import ml_collections as mlc
import pytest

from pp import builder
from tests import listings
from uvim.config import config_diff, resolve
from uvim.models import make_model, vit
from uvim.priors import lm
from uvim.registry import ConfigError

CONFIGS = {
    "vqvae_coco_panoptic": ("", "singlehost", "runlocal"),
    "lm_coco_panoptic": ("", "singlehost", "runlocal", "res=1280"),
    "vqvae_nyu_depth": ("", "singlehost", "runlocal", "scenes"),
    "lm_nyu_depth": ("", "singlehost", "runlocal", "scenes"),
    "vqvae_imagenet_colorization": ("", "singlehost", "runlocal", "fid"),
    "lm_imagenet_colorization": ("", "singlehost", "runlocal", "fid"),
    "vqvae_rooms_panoptic": ("", "tiny"),
    "lm_rooms_panoptic": ("", "tiny"),
    "vqvae_rooms_depth": ("", "tiny"),
    "lm_rooms_depth": ("", "tiny"),
    "vqvae_rooms_colorization": ("", "tiny"),
    "lm_rooms_colorization": ("", "tiny"),
    "vqvae_rooms_normals": ("", "tiny"),
    "lm_rooms_normals": ("", "tiny"),
}
# Examples of the train splits.
COCO_TRAIN, NYU_TRAIN, IMAGENET_TRAIN = 118_287, 47_584, 1_281_167


def get(name, arg=None):
  return importlib.import_module(f"configs.{name}").get_config(arg)


def test_every_config_file_is_listed():
  folder = pathlib.Path(__file__).parents[1] / "configs"
  names = {p.stem for p in folder.glob("*.py")} - {"__init__", "common"}
  assert names == set(CONFIGS)


@pytest.mark.parametrize(
    "name,arg", [(n, a) for n, args in CONFIGS.items() for a in args])
def test_config_builds(name, arg):
  config = resolve(get(name, arg))
  model = make_model(config.model_name, config.model, "config.model")
  assert jax.tree.leaves(shapes_of(model))
  for pp in (config.pp_train, config.pp_eval, *(e.pp for e in config.evals)):
    builder.build(pp, config.pp_modules)


@functools.cache
def shapes_of(model):
  module = lm if isinstance(model, lm.LM) else vit
  return jax.eval_shape(
      functools.partial(module.init_params, model), jax.random.key(0))


@pytest.fixture(scope="module")
def seeds(shared):
  return shared / "seeds" / "000_ca110d2b4088f852.txt"


@pytest.mark.parametrize("number,name", [(1, "vqvae_coco_panoptic"),
                                         (2, "lm_coco_panoptic")])
def test_equals_appendix_d(seeds, number, name):
  listing = listings.load(seeds, number).get_config()
  listing = listing.copy_and_resolve_references().to_dict()
  ours = get(name).copy_and_resolve_references().to_dict()
  seen = []

  def compare(a, b, path):
    if isinstance(a, dict):
      for key in a:
        assert key in b, f"{path}.{key} is missing"
        compare(a[key], b[key], f"{path}.{key}")
    elif path.split(".")[-1] in ("pp_train", "pp_eval", "pp"):
      seen.append(path)
      assert builder.parse(a) == builder.parse(b), path
    else:
      seen.append(path)
      assert a == b, f"{path}: {b!r}, the listing has {a!r}"

  compare(listing, ours, "config")
  assert len(seen) > 40
  # What we add to the listing, so that nothing else creeps in.
  extra = {k for k in ours if k not in listing}
  ours_only = {"data_dir", "seed", "mesh", "sharding", "grad_accum_steps",
               "skip_bad_steps", "on_bad_example"}
  if "oracle" in ours:
    ours_only |= {"code_cache", "codes_per_image"}
  assert extra == ours_only
  for name, _ in ours["evals"]:
    assert set(ours[name]) - set(listing[name]) == {"pred_kw"}


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
  config = resolve(get(name, arg))
  model = make_model(config.model_name, config.model, "config.model")
  assert sum(x.size for x in jax.tree.leaves(shapes_of(model))) == count


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
def test_scored_colour_pictures_are_squares_first(name):
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


def test_config_arguments():
  with pytest.raises(ValueError, match="singlehost"):
    get("vqvae_coco_panoptic", "singlehosts")
  with pytest.raises(ValueError, match="int"):
    get("lm_coco_panoptic", "res=big")
  assert get("lm_coco_panoptic", "res=1280").model.input_size == (1280, 1280)
  # The picture of f and the oracle stays at label size (BEHAVIOURS 31).
  assert "resize(512, inkey" in get("lm_coco_panoptic", "res=1280").pp_train


def test_config_diff_ignores_what_may_change():
  a = resolve(get("vqvae_rooms_panoptic")).to_json()
  b = dict(a, log_training_steps=1, lr=2.0)
  assert config_diff(a, b) == ["config.lr: 0.0015 → 2.0"]


def test_fields_are_frozen():
  """A new field is a decision: it needs a line in the docs."""
  import dataclasses

  from uvim.config import TrainConfig
  folder = pathlib.Path(__file__).parents[1] / "docs"
  docs = "".join((folder / name).read_text()
                 for name in ("configs.md", "scaling.md"))
  missing = [f.name for f in dataclasses.fields(TrainConfig)
             if f"`{f.name}`" not in docs]
  assert not missing
  assert isinstance(get("vqvae_rooms_panoptic"), mlc.ConfigDict)
