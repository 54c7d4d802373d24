"""Runs and published files turn into each other without a bit lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trainers import tiny
from trainers import families
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.step import make_init
from uvim import files, tree
from uvim.cli import convert
from uvim.inference.api import UViM
from uvim.store import checkpoint, published
from uvim.store.start_from import Store


@pytest.fixture(scope="module")
def stage_i():
  return VqvaeFamily(tiny.stage_i_config())


@pytest.fixture
def call(capsys):
  """The command: (exit code, what it printed, its error)."""
  def call(*argv):
    code = convert.main([str(arg) for arg in argv])
    return code, *capsys.readouterr()
  return call


def stage_i_arrays(stage):
  """Random arrays of a stage I model, by published name."""
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=x.shape).astype(x.dtype)
          for name, x in tree.flatten(stage.wanted_arrays()).items()}


def stage_ii_arrays():
  """A few of a language model's: odd values, and types beside float32."""
  return {
      "params/decoder/EmbedTargets/embedding": np.array(
          [[3.4e38, -0.0, 1e-45, -3.4e38]], np.float32),
      "params/decoder/LogitsDense/kernel": np.asarray(
          jnp.linspace(-3, 3, 12, dtype="bfloat16").reshape(3, 4)),
      "params/pos_embedding_decoder": np.arange(6, dtype=np.float16),
  }


def bits(arrays):
  """{name: (dtype, shape, bytes)}."""
  return {name: (str(x.dtype), x.shape, x.tobytes())
          for name, x in tree.flatten(arrays).items()}


@pytest.mark.parametrize("stage", ["I", "II"])
def test_there_and_back_is_bit_exact(tmp_path, call, stage_i, stage):
  arrays = stage_i_arrays(stage_i) if stage == "I" else stage_ii_arrays()
  first, workdir, last = (tmp_path / x for x in ("a.npz", "run", "b.npz"))
  files.save_npz(first, tree.unflatten(arrays))
  for source, target in (first, workdir), (workdir, last):
    code, printed, _ = call(source, target)
    assert code == 0 and f"wrote {target}" in printed
    assert f"stage {stage}: {len(arrays)} arrays" in printed
    assert bits(checkpoint.load_params(target)) == bits(arrays)
  # The names in the file itself, and no pickle.
  with np.load(last, allow_pickle=False) as file:
    assert sorted(file.files) == sorted(arrays)


def test_a_converted_workdir_is_an_oracle_and_a_start(tmp_path, call, stage_i):
  arrays, workdir = stage_i_arrays(stage_i), tmp_path / "run"
  np.savez(tmp_path / "w.npz", **arrays)
  code, printed, _ = call(tmp_path / "w.npz", workdir)
  assert code == 0
  assert "\nparams/encoder/encoder_norm/bias\t(32,)\tfloat32\n" in printed
  total = sum(x.size for k, x in arrays.items() if k.startswith("params/"))
  assert f"{total:,} parameters, 72 numbers of its state" in printed
  start = VqvaeFamily(tiny.stage_i_config(model_init=str(workdir)))
  assert bits(start.open(Store()).initial) == bits(arrays)
  oracle = tiny.open_family(LmFamily(tiny.stage_ii_config(workdir))).frozen
  assert bits(oracle) == bits(arrays)
  # A user opens it as the .npz it came from.
  opened = UViM.from_checkpoint(workdir, code_len=tiny.LENGTH)
  image = np.zeros((16, 16, 3), np.uint8)
  code = np.arange(tiny.LENGTH)[None]
  output = opened.decode(image, code).outputs["panoptic"][0]
  other = UViM.from_checkpoint(tmp_path / "w.npz", code_len=tiny.LENGTH)
  np.testing.assert_array_equal(
      output, other.decode(image, code).outputs["panoptic"][0])


def test_a_converted_workdir_is_evaluated(tmp_path, call, weights, stage_i):
  workdir = tmp_path / "run"
  assert call(weights[0], workdir)[0] == 0
  family, variables = families.open_checkpoint(
      str(workdir), stage_i.config)
  arrays = checkpoint.load_params(weights[0])
  assert bits(variables["params"]) == bits(arrays["params"])
  assert bits(variables["state"]) == bits(arrays["state"])


def test_a_run_leaves_its_optimizer_behind(tmp_path, call, stage_i):
  init, _, _ = make_init(stage_i, stage_i.config, 10)
  run = jax.jit(init)(jax.random.PRNGKey(0))
  with checkpoint.Checkpointer(tmp_path / "run") as checkpointer:
    checkpointer.save(7, run, {})
  assert call(tmp_path / "run", tmp_path / "w.npz")[0] == 0
  written = files.load_npz(tmp_path / "w.npz")
  assert sorted(written) == ["params", "state"]
  assert bits(written["params"]) == bits(run.params)
  assert bits(written["state"]) == bits(run.extra["state"])


def test_averaged_parameters_are_the_ones_that_are_written(tmp_path, call,
                                                           stage_i):
  params = tree.unflatten(stage_i_arrays(stage_i))["params"]
  average = jax.tree.map(lambda x: x + 1, params)
  with checkpoint.Checkpointer(tmp_path / "run") as checkpointer:
    checkpointer.save(7, {"params": params, "extra": {"ema": average}}, {})
  assert call(tmp_path / "run", tmp_path / "w.npz")[0] == 0
  assert bits(files.load_npz(tmp_path / "w.npz")["params"]) == bits(average)


def test_a_pack_turns_into_a_file(tmp_path, call):
  folder = published.PACKS[published.DEFAULT_PACK]
  code, printed, _ = call(folder, tmp_path / "w.npz")
  assert code == 0 and "stage II: " in printed
  assert bits(files.load_npz(tmp_path / "w.npz")) == bits(
      checkpoint.load_params(folder))


def test_a_masked_prior_stays_one(tmp_path, call, weights, caplog):
  one, two = weights
  run = tmp_path / "run"
  with checkpoint.Checkpointer(run) as checkpointer:
    checkpointer.save(1, files.load_npz(two), {})
  config = tiny.stage_ii_config(one, {"style": "masked"})
  (run / "config.json").write_text(json.dumps(config.to_json()))
  code, printed, _ = call(run, tmp_path / "two.npz")
  assert code == 0 and "state/style_masked" in printed
  assert call(tmp_path / "two.npz", tmp_path / "again")[0] == 0
  for path in (tmp_path / "two.npz", tmp_path / "again"):
    assert UViM.from_checkpoint(one, lm=path).prior.style == "masked"
  assert not caplog.messages
  # It may also start a run; there the config says the style.
  other = LmFamily(tiny.stage_ii_config(one))
  started = Store().read_start(
      str(tmp_path / "two.npz"), other.wanted_arrays(), kind="lm")
  assert started.keys() == tree.flatten(files.load_npz(two)).keys()
  # A file without the mark is taken for the paper's prior, and says so.
  assert UViM.from_checkpoint(one, lm=two).prior.style == "ar"
  message, = caplog.messages
  assert "two.npz does not tell the style" in message and "'ar'" in message


@pytest.mark.parametrize("options,words", [
    (["--half"], "--half is an option of packs: add --pack."),
    (["--license=mit"], "--license is an option of packs: add --pack."),
    (["--pack"], "one.npz'; a pack is made of the workdir of a run"),
])
def test_mistakes_about_packs(tmp_path, weights, call, options, words):
  code, printed, error = call(weights[0], tmp_path / "new", *options)
  assert (code, printed) == (2, "") and words in error
  assert not (tmp_path / "new").exists()


def test_a_run_of_an_older_version_is_refused(tmp_path, call):
  """Its dictionary lies under another name and would be left out."""
  (tmp_path / "config.json").write_text(json.dumps({"task": "depth"}))
  code, printed, error = call(tmp_path, tmp_path / "w.npz")
  assert (code, printed) == (2, "") and "version 0.1.0" in error
  assert not (tmp_path / "w.npz").exists()


def test_the_config_of_a_run_tells_its_kind(tmp_path, call):
  """Also where the names of the arrays say nothing."""
  workdir = tmp_path / "run"
  with checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(1, {"params": {"table": np.ones((3, 4))}}, {})
  assert "No UViM checkpoint" in call(workdir, tmp_path / "w.npz")[2]
  (workdir / "config.json").write_text(json.dumps({"kind": "lm"}))
  code, printed, _ = call(workdir, tmp_path / "w.npz")
  assert code == 0 and "stage II: 1 arrays, 12 parameters" in printed


@pytest.mark.parametrize("target", ("https://h/x.npz", "s3://b/x.npz", "x://y"))
def test_a_target_that_nobody_can_write_is_refused(weights, call, target):
  code, printed, error = call(weights[0], target)
  assert (code, printed) == (2, "")
  assert f"DST = {target!r}; allowed: a path" in error


def test_a_workdir_that_fails_is_not_left_in_half(tmp_path, weights, call):
  code, _, error = call(weights[0], tmp_path / ("x" * 300))
  assert code == 2 and "File name too long" in error
  assert not list(tmp_path.glob("*x*")) and not list(tmp_path.glob(".conv*"))


def test_a_link_that_leads_nowhere_is_kept(tmp_path, weights, call):
  (tmp_path / "link.npz").symlink_to(tmp_path / "nowhere")
  assert call(weights[0], tmp_path / "link.npz")[0] == 2
  assert (tmp_path / "link.npz").is_symlink()


def test_nothing_is_overwritten(tmp_path, call):
  for name in "a.npz", "b.npz":
    np.savez(tmp_path / name, **stage_ii_arrays())
  before = (tmp_path / "b.npz").read_bytes()
  (tmp_path / "run").mkdir()
  for target in "b.npz", "run":
    code, printed, error = call(tmp_path / "a.npz", tmp_path / target)
    assert (code, printed) == (2, "")
    assert f"{target} exists already" in error
  assert (tmp_path / "b.npz").read_bytes() == before
  assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("arrays,message", [
    ({"Transformer/encoder_norm/scale": np.ones(3)}, "No UViM checkpoint"),
    ({"state/dictionary": np.array([{}], object)}, "not a readable .npz"),
    (None, "No checkpoint at"),
])
def test_what_is_no_checkpoint_is_refused(tmp_path, call, arrays, message):
  if arrays is not None:
    np.savez(tmp_path / "a.npz", **arrays)
  code, printed, error = call(tmp_path / "a.npz", tmp_path / "run")
  assert (code, printed) == (2, "") and message in error
  assert not (tmp_path / "run").exists()
