"""What a run starts from: released weights, bare ViTs, parts, what fits."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files, tree
from uvim.encoders import base as encoders_base
from uvim.encoders import positions
from uvim.models import make_model
from uvim.priors import make_prior
from uvim.registry import ConfigError
from uvim.store import checkpoint, download, published
from uvim.store.start_from import Store

# Names and sizes of a bare ViT that fits TINY, as linen writes them.
TINY = dict(num_layers=2, num_heads=2, mlp_dim=24, emb_dim=16,
            patches={"size": (8, 8)}, vocab_size=9, seq_len=4)
NORMS = ("LayerNorm_0", "LayerNorm_1")


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
  """An empty cache, and whoever wants to fill it fails."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens.


POSITIONS = f"params/{encoders_base.POSITIONS}"


def load(model_init, arrays, kind="lm", specs=None):
  return Store().read_start(
      model_init, arrays, kind=kind, encoder_specs=specs)


@functools.cache
def wanted(input_size=(112, 112), **changes):
  """(shapes of a language model's parameters, its encoder)."""
  prior = make_prior({**TINY, "input_size": input_size, **changes}, "model")
  params = jax.eval_shape(prior.init, jax.random.key(0))
  return {"params": params}, prior.encoder_specs


@pytest.fixture(scope="module")
def stage_i():
  return VqvaeFamily(tiny.stage_i_config())


def linen_vit(side=14, seed=0):
  """Random arrays of a bare ViT with class token, hidden layer and head."""
  shapes = {
      "cls": (1, 1, 16), "embedding/kernel": (8, 8, 3, 16),
      "embedding/bias": (16,), "head/kernel": (16, 5), "head/bias": (5,),
      "pre_logits/kernel": (16, 16), "pre_logits/bias": (16,),
      "Transformer/encoder_norm/scale": (16,),
      "Transformer/encoder_norm/bias": (16,),
      "Transformer/posembed_input/pos_embedding": (1, side**2 + 1, 16)}
  for i in range(2):
    block = f"Transformer/encoderblock_{i}"
    for norm in NORMS:
      shapes |= {f"{block}/{norm}/{k}": (16,) for k in ("scale", "bias")}
    attention = f"{block}/MultiHeadDotProductAttention_0"
    for name in ("query", "key", "value"):
      shapes[f"{attention}/{name}/kernel"] = (16, 2, 8)
      shapes[f"{attention}/{name}/bias"] = (2, 8)
    shapes |= {f"{attention}/out/kernel": (2, 8, 16),
               f"{attention}/out/bias": (16,),
               f"{block}/MlpBlock_0/Dense_0/kernel": (16, 24),
               f"{block}/MlpBlock_0/Dense_0/bias": (24,),
               f"{block}/MlpBlock_0/Dense_1/kernel": (24, 16),
               f"{block}/MlpBlock_0/Dense_1/bias": (16,)}
  rng = np.random.default_rng(seed)
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def pre_linen(arrays):
  """The same arrays as the Flax before linen numbered their modules."""
  return {
      name.replace("LayerNorm_1", "LayerNorm_2")
      .replace("Attention_0", "Attention_1")
      .replace("MlpBlock_0", "MlpBlock_3"): x for name, x in arrays.items()}


@pytest.fixture
def write(tmp_path):
  """Writes arrays by name as a .npz; gives its path."""
  def write(arrays, name="w.npz"):
    np.savez(tmp_path / name, **arrays)
    return str(tmp_path / name)
  return write


def assert_equal(got, want):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


# ── A bare ViT as the image encoder ──────────────────────────────────────────


def test_a_vit_gives_encoder_patches_and_positions(write, capsys):
  """BEHAVIOURS 32: class token and head not loaded; equal grids exact."""
  vit_arrays = linen_vit()
  arrays, specs = wanted()
  loaded = load({"encoder": write(vit_arrays)}, arrays, specs=specs)
  want = {}
  for name, x in vit_arrays.items():
    if name.startswith("Transformer/encoder"):
      want[name.replace("Transformer/", "params/encoder/")] = x
    elif name.startswith("embedding/"):
      want[name.replace("embedding/", "params/EmbedPatches/")] = x
  tokens = vit_arrays["Transformer/posembed_input/pos_embedding"]
  want[POSITIONS] = tokens[:, 1:]
  assert_equal(loaded, want)
  # The report names what was left out.
  report = capsys.readouterr().err
  for name in ("cls", "head/kernel", "head/bias", "pre_logits/kernel"):
    assert f"params/{name}" in report
  assert "37 arrays" in report


@pytest.mark.parametrize("respell", [
    pre_linen,
    lambda x: {f"opt/target/{k}": v for k, v in pre_linen(x).items()},
    lambda x: {f"params/{k}": v for k, v in x.items()},
    lambda x: {k.replace("posembed_input/", ""): v for k, v in x.items()},
    lambda x: {k.replace("Transformer/posembed_input/", ""): v
               for k, v in x.items()},
    lambda x: {k: v[:, 1:] if "pos_embedding" in k else v
               for k, v in x.items() if k != "cls"},
])
def test_every_spelling_gives_the_same_parameters(write, respell):
  """Pre-linen names, other places of the position embedding, no class token."""
  arrays, specs = wanted()
  want, got = (
      load({"encoder": write(spelt, name)}, arrays, specs=specs)
      for name, spelt in (("linen.npz", linen_vit()),
                          ("other.npz", respell(linen_vit()))))
  assert_equal(got, want)


def ramp(rows, columns):
  """An embedding that says where in the picture a patch lies, corners 0…1."""
  y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns),
                     indexing="ij")
  return np.stack([y, x, x * y] + [x] * 13, -1).reshape(1, -1, 16).astype(
      np.float32)


def test_positions_are_resampled_to_the_grid_of_the_model(write):
  vit_arrays = linen_vit()
  name = "Transformer/posembed_input/pos_embedding"
  class_token = np.full((1, 1, 16), 9, np.float32)
  vit_arrays[name] = np.concatenate([class_token, ramp(14, 14)], 1)
  path = write(vit_arrays)
  for size in (40, 64), (16, 16), (160, 256), (112, 80):
    arrays, specs = wanted(size)
    loaded = load({"encoder": path}, arrays, specs=specs)
    want = ramp(*specs["encoder"].grid)
    np.testing.assert_allclose(loaded[POSITIONS], want, atol=1e-6)
    assert loaded[POSITIONS].dtype == np.float32


def test_a_patch_between_two_has_their_mean():
  old_1ND = np.random.default_rng(0).normal(size=(1, 14, 8))
  new_1ND = positions.resize(
      old_1ND, (1, 14), (1, 27), "bilinear_corners")
  np.testing.assert_allclose(new_1ND[:, ::2], old_1ND, atol=1e-12)
  np.testing.assert_allclose(
      new_1ND[:, 1::2], (old_1ND[:, 1:] + old_1ND[:, :-1]) / 2, atol=1e-12)


def test_no_grid_has_an_edge_of_zeros():
  """Rounding may place the last patch beyond the edge."""
  for new in range(1, 60):
    ones = np.ones((1, 64, 1))
    np.testing.assert_allclose(
        positions.resize(ones, (8, 8), (new, new), "bilinear_corners"), 1,
        rtol=1e-12)


def test_fixed_positions_need_none_of_the_vit(write):
  arrays, specs = wanted(posemb_type="sincos2d")
  loaded = load({"encoder": write(linen_vit())}, arrays, specs=specs)
  assert len(loaded) == 36 and POSITIONS not in loaded


@pytest.mark.parametrize("change,message", [
    (lambda x: x | {"Transformer/other": np.ones(1)}, "params/encoder/other|"
     "params/Transformer/other"),
    (lambda x: {k: v for k, v in x.items() if "block_1" not in k},
     "has depth 1, not 2 as in the config"),
    (lambda x: x | {"embedding/bias": np.ones(17, np.float32)},
     r"bias of the patches has shape \[17\].*embedding is 16"),
    (lambda x: x | pre_linen(x), "two spellings"),
    (lambda x: x | {"Transformer/posembed_input/pos_embedding":
                    np.ones((1, 199, 16), np.float32)}, "199 tokens"),
])
def test_a_vit_that_does_not_fit_is_refused(write, change, message):
  arrays, specs = wanted()
  with pytest.raises(ConfigError, match=message):
    load({"encoder": write(change(linen_vit()))}, arrays, specs=specs)


def test_a_vit_is_nothing_but_stage_ii_s_encoder(write, stage_i):
  stage_i = stage_i.wanted_arrays()
  stage_ii, _ = wanted()
  for path in write(linen_vit()), "howto-i21k-L/16":  # Not even fetched.
    for init, arrays, kind in (
        (path, stage_ii, "lm"), ({"decoder": path}, stage_ii, "lm"),
        ({"encoder": path}, stage_i, "vqvae"), (path, stage_i, "vqvae")):
      with pytest.raises(ConfigError, match="bare ViT.*'encoder'"):
        load(init, arrays, kind)


def test_listing_2_starts_from_a_vit_by_name(write, stage_i):
  """The listing's own line, through the stage: it knows its grid."""
  oracle = write({})
  random_npz(pathlib.Path(oracle), stage_i.wanted_arrays())
  path = download.cache_path(published.VITS["howto-i21k-L/16"])
  path.parent.mkdir(parents=True)
  np.savez(path, **linen_vit())
  stage = LmFamily(tiny.stage_ii_config(
      oracle, {**TINY, "input_size": (16, 24)},
      model_init={"encoder": "howto-i21k-L/16"}))
  old_1ND = linen_vit()["Transformer/posembed_input/pos_embedding"][:, 1:]
  initial = tiny.open_family(stage).initial
  new_1ND = initial[POSITIONS]  # 2 rows of 3: the corners stay.
  np.testing.assert_array_equal(
      new_1ND[0, [0, 2, 3, 5]], old_1ND[0, [0, 13, 182, 195]])


# ── Files of exactly the released layout ─────────────────────────────────────


def published_names(fixtures, stage, task):
  text = (fixtures / f"param_tree_stage{stage}_{task}.txt").read_text()
  return [line.split("\t")[0] for line in text.splitlines()[1:]]


def random_npz(path, arrays):
  """Random values of these shapes, one sort of name per line, as published."""
  rng = np.random.default_rng(0)
  flat = {name: rng.normal(size=x.shape).astype(x.dtype)
          for name, x in tree.flatten(arrays).items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **flat)
  return flat


SMALL_I = dict(
    input_size=(32, 32), patch_size=(16, 16), code_len=4, width=8,
    oracle_depth=6, base_model_depth=12, mlp_dim=8, num_heads=2, dict_size=4,
    codeword_dim=4)
LABELS = {"panoptic": {"instances": (3, 256), "semantics": (3, 256)},
          "depth": {"depth": (3, 256)}, "color": {"color": (3, 256)}}


@pytest.mark.parametrize("task", LABELS)
def test_stage_i_loads_the_released_layout_by_name(fixtures, task):
  """The published names at small sizes; full sizes are in test_vit.py."""
  model = make_model("vit", {
      **SMALL_I, "inputs": LABELS[task], "outputs": LABELS[task]}, "model")
  arrays = jax.eval_shape(model.init, jax.random.key(0))
  path = download.cache_path(published.MODELS[f"uvim-{task}-stage1"])
  saved = random_npz(path, arrays)
  assert sorted(saved) == sorted(published_names(fixtures, 1, task))
  assert_equal(load(f"uvim-{task}", arrays, "vqvae"), saved)


def test_stage_ii_loads_the_released_layout_by_name(fixtures):
  names = published_names(fixtures, 2, "panoptic")
  for task in "depth", "color":
    assert published_names(fixtures, 2, task) == names
  arrays, _ = wanted((16, 16), num_layers=24)
  path = download.cache_path(published.MODELS["uvim-depth-stage2"])
  saved = random_npz(path, arrays)
  assert sorted(saved) == sorted(names)
  assert_equal(load("uvim-depth", arrays), saved)
  part = load({"encoder": "uvim-depth"}, arrays)
  assert_equal(part, {name: x for name, x in saved.items()
                      if name.startswith("params/encoder/")})


def test_an_oracle_by_name_is_the_stage_i_file(stage_i):
  path = download.cache_path(published.MODELS["uvim-panoptic-stage1"])
  saved = random_npz(path, stage_i.wanted_arrays())
  family = LmFamily(tiny.stage_ii_config("uvim-panoptic"))
  assert_equal(tree.flatten(tiny.open_family(family).frozen), saved)
  family = LmFamily(tiny.stage_ii_config(""))
  with pytest.raises(ConfigError, match="config.oracle.model_init = ''"):
    tiny.open_family(family)


# ── Reports ──────────────────────────────────────────────────────────────────


def test_a_full_load_says_what_it_loaded(write, capsys):
  arrays = {"params": {"a": {"kernel": np.ones((2, 3))}, "b": np.ones(3)}}
  load(write(tree.flatten(arrays)), arrays)
  assert re.search(r"config.model_init = '.*w.npz': 2 arrays, 9 parameters",
                   capsys.readouterr().err)


def test_partial_takes_what_fits_and_reports_the_rest(write, capsys):
  """The one way to load less than everything of a part."""
  saved = {"params/same": np.ones(2), "params/shape": np.ones(2),
           "params/dtype": np.ones(2, np.float32), "params/extra": np.ones(2)}
  path = write(saved)
  arrays = {"params": {"same": np.zeros(2), "shape": np.zeros(3),
                       "dtype": np.zeros(2), "new": np.zeros(2)}}
  with pytest.raises(ConfigError, match="1 arrays match"):
    load(path, arrays)
  loaded = load({"partial": path}, arrays)
  assert_equal(loaded, {"params/same": saved["params/same"]})
  report = capsys.readouterr().err
  assert ("1 arrays match, 1 missing, 1 unexpected, 2 of another shape or "
          "dtype") in report
  for line in ("params/shape: [2] float64 saved, [3] float64 in this run",
               "params/dtype: [2] float32 saved, [2] float64 in this run",
               "params/new: absent saved", "params/extra: [2] float64 saved, "
               "absent in this run"):
    assert line in report
  with pytest.raises(ConfigError, match="nothing there fits"):
    load({"partial": path}, {"params": {"new": np.zeros(2)}})


def test_a_report_shows_a_few_of_each_kind():
  def spec(names):
    return {name: [[1], "float32"] for name in names}

  found = tree.compare(spec([f"a{i:02d}" for i in range(9)]),
                       spec([f"b{i:02d}" for i in range(20)]))
  text = found.report(limit=3)
  assert text.count("a0") == 3 and "… and 6 more" in text
  assert text.count("b0") == 3 and "… and 17 more" in text
  assert not found.same and tree.compare(spec("ab"), spec("ab")).same


def test_bfloat16_comes_back_as_it_was(tmp_path):
  """numpy writes it as two nameless bytes."""
  value = jax.numpy.arange(5, dtype="bfloat16") / 3
  path = tmp_path / "w.npz"
  files.save_npz(path, {"params": {"x": value, "one": value[1]}})
  loaded = checkpoint.load_params(path)["params"]
  assert loaded["x"].dtype == loaded["one"].dtype == "bfloat16"
  np.testing.assert_array_equal(loaded["x"], value)
