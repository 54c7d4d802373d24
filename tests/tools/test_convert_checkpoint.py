"""Runs and published files turn into each other without a bit lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.trainers import tiny
from tools import convert_checkpoint
from trainers.lm import load_oracle
from trainers.vqvae import VqvaeStage
from uvim import files, tree
from uvim.codes import vq as quantizer
from uvim.learn import optim, state
from uvim.store import checkpoint


@pytest.fixture(scope="module")
def stage_i():
  return VqvaeStage(tiny.stage_i_config())


@pytest.fixture
def call(capsys):
  """The command: (exit code, what it printed, its error)."""
  def call(*argv):
    code = convert_checkpoint.main([str(arg) for arg in argv])
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
          [[np.nan, -0.0, 1e-45, np.inf]], np.float32),
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
  assert f"{total:,} parameters, 72 numbers of the dictionary's" in printed
  oracle = tree.flatten(load_oracle(stage_i, workdir))
  np.testing.assert_array_equal(
      oracle["codebook/dictionary"], arrays["state/dictionary"])
  stage = VqvaeStage(tiny.stage_i_config(model_init=str(workdir)))
  assert bits(stage.initial) == bits(arrays)


def test_a_run_leaves_its_optimizer_behind(tmp_path, call):
  params = {"encoder": {"kernel": jnp.ones((40, 40))}}
  tx, _ = optim.make_optimizer(
      params=params, optax_name="scale_by_adafactor", lr=0.1,
      schedule={"decay_type": "cosine"}, total_steps=10)
  run = state.TrainState.create(
      params=params, tx=tx, rng=jax.random.PRNGKey(0),
      codebook=quantizer.init_codebook(jax.random.PRNGKey(0), 8, 4))
  with checkpoint.Checkpointer(tmp_path / "run") as checkpointer:
    checkpointer.save(7, run, {})
  assert call(tmp_path / "run", tmp_path / "w.npz")[0] == 0
  with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
    assert sorted(file.files) == [
        "params/encoder/kernel", "state/counts", "state/dictionary"]
    np.testing.assert_array_equal(
        file["state/dictionary"], run.codebook.dictionary)


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
