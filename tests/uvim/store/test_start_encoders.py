"""Models that start from encoders of other projects, file to features."""

import functools

import jax
import numpy as np
import pytest

from uvim import tree
from uvim.encoders import base, image_encoder
from uvim.priors import make_prior
from uvim.registry import ConfigError
from uvim.store.start_from import Store

# Sizes of the files of random weights.
SIZES = dict(depth=2, width=24, mlp_dim=48, num_heads=3)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other encoders")
  return folder


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
  """An empty cache, and whoever wants to fill it fails."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens.


def stage_ii(style, patch, input_size, **changes):
  fields = dict(
      num_layers=2, num_heads=3, mlp_dim=48, emb_dim=24, vocab_size=9,
      seq_len=4, patches={"size": (patch, patch)}, input_size=input_size,
      encoder_style=style)
  return make_prior(fields | changes, "config.model")


def block(family, patch, input_size):
  fields = dict(family=family, patch_size=(patch, patch),
                input_size=input_size, **SIZES)
  return image_encoder.make(fields, "config.model.image_encoder")


def start(part, path, shapes, spec):
  return Store().read_start(
      {part: str(path)}, {"params": shapes}, kind="lm",
      encoder_specs={part: spec})


def start_stage_ii(path, prior):
  """Parameters of stage II with the encoder of a file; others are zeros."""
  shapes = jax.eval_shape(prior.init, jax.random.key(0))
  loaded = start("encoder", path, shapes, prior.encoder_specs["encoder"])
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  return tree.unflatten(tree.flatten({"params": zeros}) | loaded)


def read_case(folder, name, pixels):
  """(image in [-1, 1], features of its tokens) of a fixture, ImageNet's."""
  with np.load(folder / f"enc_{name}.npz") as arrays:
    image = np.moveaxis(arrays[f"{pixels}pixels"], 1, -1)
    features = arrays[f"{pixels}features"]
  mean_C, deviation_C = base.IMAGENET
  image = (image * deviation_C + mean_C) * 2 - 1
  return image.astype(np.float32), features


def assert_close(ours, theirs):
  scale = np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * scale)


@pytest.mark.parametrize("name, style, num_prefix", [
    ("dinov2_hf", "dinov2", 1),
    ("dinov2_registers_hf", "dinov2_reg4", 5),
])
def test_stage_ii_sees_what_the_original_sees(
    folder, capsys, name, style, num_prefix):
  image, features = read_case(folder, name, "other_")
  prior = stage_ii(style, 7, image.shape[1:3])
  variables = start_stage_ii(folder / f"enc_{name}.safetensors", prior)
  encode = jax.jit(functools.partial(prior.lm.apply, method="encode"))
  encoded = encode(variables, image)
  assert_close(encoded, features[:, num_prefix:])
  report = capsys.readouterr().err
  assert "position embedding resized from 4×4 to 6×6" in report
  assert "params/embeddings.mask_token" in report
  assert "38 arrays" in report


def test_an_image_encoder_sees_what_the_original_sees(folder):
  """The decoder of MAE is left out; nothing is masked."""
  image, features = read_case(folder, "vit_mae_hf", "")
  encoder = block("mae", 8, image.shape[1:3])
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  loaded = start("image_encoder", folder / "enc_vit_mae_hf.safetensors",
                 {"image_encoder": shapes}, encoder.spec)
  loaded = tree.unflatten(loaded)["params"]["image_encoder"]
  assert_close(encoder.features(loaded, image), features[:, 1:])


@pytest.mark.parametrize("changes, words", [
    (dict(style="augreg"), "encoder_style = 'dinov2'"),
    (dict(patch=14, input_size=(42, 42)),
     "has patch 7×7, not 14×14 as in the config. The image's height"),
    (dict(num_layers=3), "has depth 2, not 3"),
    (dict(emb_dim=48), "has width 24, not 48"),
    (dict(mlp_dim=96, num_layers=1), "depth 2, not 1, MLP width 48, not 96"),
])
def test_sizes_that_differ_are_one_line(folder, changes, words):
  fields = dict(style="dinov2", patch=7, input_size=(28, 28)) | changes
  prior = stage_ii(**fields)
  with pytest.raises(ConfigError, match=words) as caught:
    start_stage_ii(folder / "enc_dinov2_hf.safetensors", prior)
  message = str(caught.value)
  assert "\n" not in message
  assert message.startswith("config.model_init.encoder = '")


def test_a_name_of_another_family_is_not_even_fetched():
  prior = stage_ii("augreg", 14, (28, 28))
  with pytest.raises(ConfigError, match="write config.model.encoder_style = "
                     "'dinov2'"):
    start_stage_ii("dinov2-S/14", prior)


def test_a_file_of_no_encoder_is_one_line(tmp_path):
  from safetensors import numpy as safetensors_numpy
  path = tmp_path / "w.safetensors"
  safetensors_numpy.save_file({"conv1.weight": np.ones(3, np.float32)}, path)
  with pytest.raises(ConfigError, match="names such as params/conv1.weight"):
    start_stage_ii(path, stage_ii("augreg", 7, (28, 28)))


def test_whoever_asks_for_all_of_a_bare_encoder_is_told_where_it_goes(folder):
  path = str(folder / "enc_dinov2_hf.safetensors")
  wanted = {"params": {"decoder": np.ones(1)}}
  for model_init in (path, {"partial": path}, {"decoder": path}):
    with pytest.raises(ConfigError, match="bare ViT.*'image_encoder'"):
      Store().read_start(model_init, wanted, kind="lm")
