"""Checkpoints: exact, atomic, on any mesh, and wary of damage."""

import logging
import os
import resource
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import files, tree
from uvim.codes import vq
from uvim.learn import optim, sharding, state
from uvim.registry import ConfigError
from uvim.store import checkpoint, digests

META = {"config": {"lr": 0.1, "evals": [["pq", "coco_panoptic"]]}, "note": "é"}
CONFIG = {
    "optax_name": "scale_by_adafactor",
    "lr": 0.1,
    "schedule": [("frozen", None), (".*", {"decay_type": "cosine"})],
    "grad_clip_norm": 1.0,
    "total_steps": 10,
}


def _init(width=40):
  params = {
      "a": {"kernel": jnp.arange(32.0 * width).reshape(32, width)},
      "frozen": jnp.ones(3),
  }
  tx, _ = optim.make_optimizer(params=params, **CONFIG)
  codebook = vq.init_codebook(jax.random.PRNGKey(0), 8, 4)
  return state.TrainState.create(
      params=params, tx=tx, rng=jax.random.PRNGKey(3),
      extra={"state": vq.as_state(codebook), "usage": jnp.arange(8)}), tx


def _at(step):
  """A state after `step` updates, so that every step differs."""
  current, tx = _init()
  for i in range(step):
    grads = jax.tree.map(lambda x: jnp.sin(x + i), current.params)  # noqa: B023
    current = current.apply_gradients(tx, grads)
  return current


def _target(axes=(("data", 1),), rules=(), width=40):
  mesh = sharding.make_mesh(axes)
  abstract = jax.eval_shape(lambda: _init(width)[0])
  return sharding.with_shardings(
      abstract, sharding.state_shardings(abstract, mesh, rules))


def _assert_equal(got, want):
  got, want = tree.flatten(got), tree.flatten(want)
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert got[name].dtype == value.dtype, name
    np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
  """A workdir with checkpoints 1 and 2; copy it before harming it."""
  workdir = tmp_path_factory.mktemp("template")
  with checkpoint.Checkpointer(workdir) as checkpoints:
    for step in 1, 2:
      checkpoints.save(step, _at(step), META | {"at": step})
  return workdir


@pytest.fixture
def workdir(template, tmp_path):
  return shutil.copytree(template, tmp_path / "workdir")


def _step_dir(workdir, step):
  return workdir / "checkpoints" / str(step)


def _largest(folder):
  return max((p for p in folder.rglob("*") if p.is_file()),
             key=lambda p: p.stat().st_size)


def _truncate(folder):
  path = _largest(folder / "state")
  os.truncate(path, path.stat().st_size // 2)


def _flip_one_bit(folder):
  path = _largest(folder / "state")
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def _empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def test_what_was_saved_comes_back_bit_for_bit(template):
  with checkpoint.Checkpointer(template) as checkpoints:
    got, meta = checkpoints.restore_latest(_target())
  assert meta == META | {"at": 2}
  assert isinstance(got, state.TrainState)
  _assert_equal(got, _at(2))


def test_an_empty_workdir_has_nothing_to_restore(tmp_path):
  with checkpoint.Checkpointer(tmp_path / "new") as checkpoints:
    assert checkpoints.restore_latest(_target()) is None
  assert checkpoint.read_meta(tmp_path / "new") == {}


def test_the_mesh_may_change_between_save_and_restore(template, tmp_path):
  rules = [(".*", "fsdp(data)")]
  target = _target([("data", 8)], rules)
  with checkpoint.Checkpointer(template) as checkpoints:
    spread, meta = checkpoints.restore_latest(target)
  kernel = spread.params["a"]["kernel"]
  assert kernel.addressable_shards[0].data.size * 8 == kernel.size
  with checkpoint.Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(2, spread, meta)
    single, _ = checkpoints.restore_latest(_target())
  _assert_equal(single, _at(2))


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
  current, want = jax.device_put(_at(1)), _at(1)
  with checkpoint.Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, current, {})
    jax.block_until_ready(jax.jit(
        lambda s: jax.tree.map(jnp.zeros_like, s), donate_argnums=0)(current))
    got, _ = checkpoints.restore_latest(_target())
  _assert_equal(got, want)


def test_the_newest_and_every_kth_checkpoint_are_kept(tmp_path):
  with checkpoint.Checkpointer(
      tmp_path, keep_last=2, keep_every=4) as checkpoints:
    for step in range(2, 14, 2):
      checkpoints.save(step, {"x": jnp.full(2, step)}, {})
  left = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  assert left == {4, 8, 10, 12}


def test_saving_a_saved_step_again_changes_nothing(workdir):
  with checkpoint.Checkpointer(workdir) as checkpoints:
    checkpoints.save(2, _at(0), {})
    got, _ = checkpoints.restore_latest(_target())
  _assert_equal(got, _at(2))


@pytest.mark.parametrize("harm", [
    _truncate,
    _flip_one_bit,
    _empty,
    lambda folder: _largest(folder / "meta").unlink(),
    lambda folder: (folder / digests.CHECKSUMS).unlink(),
])
def test_a_damaged_newest_is_skipped_and_can_be_saved_anew(
    workdir, harm, caplog):
  harm(_step_dir(workdir, 2))
  with caplog.at_level(logging.WARNING):
    with checkpoint.Checkpointer(workdir, keep_last=1) as checkpoints:
      got, meta = checkpoints.restore_latest(_target())
      assert meta["at"] == 1
      _assert_equal(got, _at(1))
      checkpoints.save(2, _at(2), META)
      _assert_equal(checkpoints.restore_latest(_target())[0], _at(2))
  assert "damaged checkpoint" in caplog.text


def test_parameters_come_from_the_newest_intact_checkpoint(workdir):
  _flip_one_bit(_step_dir(workdir, 2))
  got, want = checkpoint.load_params(workdir), _at(1)
  _assert_equal(got["params"], want.params)
  # Reading changes nothing: the run itself decides about its damage.
  assert _step_dir(workdir, 2).exists()


def test_nothing_intact_is_an_error_not_a_fresh_start(workdir):
  for step in 1, 2:
    _truncate(_step_dir(workdir, step))
  with checkpoint.Checkpointer(workdir) as checkpoints:
    with pytest.raises(ConfigError, match="All 2 checkpoint.* are damaged"):
      checkpoints.restore_latest(_target())


def test_what_a_killed_save_left_is_ignored_and_cleared(workdir):
  half = _step_dir(workdir, 2).rename(
      workdir / "checkpoints" / "2.orbax-checkpoint-tmp")
  (half / digests.CHECKSUMS).unlink()
  np.testing.assert_array_equal(
      checkpoint.load_params(workdir)["params"]["a"]["kernel"],
      _at(1).params["a"]["kernel"])
  with checkpoint.Checkpointer(workdir) as checkpoints:
    assert checkpoints.restore_latest(_target())[1]["at"] == 1
    checkpoints.save(2, _at(2), META)
  assert not half.exists()


def test_a_checkpoint_of_another_model_is_refused_with_the_difference(
    template):
  with checkpoint.Checkpointer(template) as checkpoints:
    with pytest.raises(
        ConfigError, match=r"params/a/kernel: \[32, 40\] float32 saved, "
        r"\[32, 41\] float32 in this run"):
      checkpoints.restore_latest(_target(width=41))


def test_a_workdir_that_vanishes_or_cannot_be_is_a_clear_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigError, match="Cannot use workdir .*file"):
    checkpoint.Checkpointer(tmp_path / "file")
  checkpoints = checkpoint.Checkpointer(tmp_path / "run")
  shutil.rmtree(tmp_path / "run")
  (tmp_path / "run").write_text("")
  with pytest.raises(ConfigError, match="Cannot write checkpoint 1 to .*run"):
    checkpoints.save(1, {"x": jnp.ones(2)}, {})
    checkpoints.wait()


@pytest.fixture
def small_files():
  """No file may grow beyond 64 KB, as on a disk that is full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
  yield
  resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _large(step):
  rng = np.random.default_rng(step)
  return {"x": jnp.asarray(rng.normal(size=1 << 17).astype("float32"))}


def test_a_full_disk_is_a_clear_error_and_costs_no_checkpoint(
    workdir, request):
  checkpoints = checkpoint.Checkpointer(workdir)
  request.getfixturevalue("small_files")
  with pytest.raises(ConfigError, match="Cannot write checkpoint 3 .*full"):
    checkpoints.save(3, _large(3), META)
    checkpoints.wait()
  _assert_newest_is_2(workdir)


@pytest.mark.skipif(os.geteuid() != 0, reason="skipped: only root may become "
                    "somebody to whom a folder is read-only")
def test_a_read_only_workdir_is_a_clear_error(template):
  with tempfile.TemporaryDirectory() as folder:
    workdir = shutil.copytree(template, os.path.join(folder, "run"))
    for parent, _, _ in os.walk(folder):
      os.chmod(parent, 0o555)
    checkpoints = checkpoint.Checkpointer(workdir)
    os.seteuid(65534)
    try:
      with pytest.raises(ConfigError, match="Cannot write checkpoint 3 .*read"):
        checkpoints.save(3, _at(3), META)
        checkpoints.wait()
    finally:
      os.seteuid(0)
    _assert_newest_is_2(workdir)


def test_a_workdir_that_vanished_is_not_made_anew(tmp_path):
  checkpoints = checkpoint.Checkpointer(tmp_path / "run")
  shutil.rmtree(tmp_path / "run")
  with pytest.raises(ConfigError, match="Cannot write checkpoint 1 .*gone"):
    checkpoints.save(1, _large(1), META)
    checkpoints.wait()
  assert not (tmp_path / "run").exists()


def _assert_newest_is_2(workdir):
  with checkpoint.Checkpointer(workdir) as checkpoints:
    got, meta = checkpoints.restore_latest(_target())
  assert meta["at"] == 2
  _assert_equal(got, _at(2))


def test_a_run_gives_the_published_layout(template, tmp_path):
  loaded, want = checkpoint.load_params(template), _at(2)
  _assert_equal(loaded, {"params": want.params, "state": want.extra["state"]})
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(loaded))
  path = tmp_path / "model.npz"
  files.save_npz(path, loaded)
  with np.load(path, allow_pickle=False) as arrays:
    assert sorted(arrays.files) == [
        "params/a/kernel", "params/frozen", "state/counts", "state/dictionary"]
  _assert_equal(checkpoint.load_params(path), loaded)


def test_averaged_parameters_are_the_ones_to_predict_with(tmp_path):
  current = _at(1)
  ema = jax.tree.map(lambda x: x + 1, current.params)
  current = current.replace(extra={**current.extra, "ema": ema})
  with checkpoint.Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, current, {})
  _assert_equal(checkpoint.load_params(tmp_path)["params"], ema)


def test_a_failed_npz_leaves_the_old_one(tmp_path):
  path = tmp_path / "model.npz"
  files.save_npz(path, {"params": {"x": np.ones(3)}})

  def disk_full(file):
    file.write(b"PK")
    raise OSError("No space left on device")

  with pytest.raises(OSError, match="No space"):
    files.replace_file(path, disk_full)
  assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
  np.testing.assert_array_equal(
      checkpoint.load_params(path)["params"]["x"], np.ones(3))


def _write_pickled(path):
  np.savez(path, x=np.array([{}], object), allow_pickle=True)


def _write_half(path):
  np.savez(path, x=np.ones(1000))
  os.truncate(path, 4000)


def _write_npy(path):
  with path.open("wb") as f:
    np.save(f, np.ones(3))


@pytest.mark.parametrize("write", [
    _write_npy,
    _write_pickled,
    _write_half,
    lambda path: path.write_text("not a checkpoint"),
    lambda path: path.write_bytes(b""),
])
def test_a_file_that_is_no_plain_npz_is_refused(tmp_path, write):
  path = tmp_path / "x.npz"
  write(path)
  with pytest.raises(ConfigError, match="x.npz is not a readable .npz"):
    checkpoint.load_params(path)


def test_a_missing_checkpoint_says_what_was_expected(tmp_path):
  with pytest.raises(ConfigError, match="No checkpoint at .*absent"):
    checkpoint.load_params(tmp_path / "absent")
  with pytest.raises(ConfigError, match="holds no checkpoint"):
    checkpoint.load_params(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "w.npz")
  with pytest.raises(ConfigError, match="w.npz: is a pipe or device"):
    checkpoint.load_params(tmp_path / "w.npz")


def test_paths_may_be_relative(tmp_path, monkeypatch):
  """As `--config.oracle.model_init=W1` is typed; Orbax wants absolute ones."""
  monkeypatch.chdir(tmp_path)
  with checkpoint.Checkpointer("W1") as checkpointer:
    checkpointer.save(1, _at(1), {})
  _assert_equal(checkpoint.load_params("W1")["params"], _at(1).params)


@pytest.mark.parametrize("name", (
    ".DS_Store", ".nfs00000001", "desktop.ini", "._d", "notes/a.txt"))
def test_files_of_others_damage_no_checkpoint(workdir, name):
  for folder in ("", "state", "meta"):
    path = workdir / "checkpoints/2" / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("left by somebody")
  _assert_newest_is_2(workdir)


@pytest.mark.parametrize("name", (
    "lr[1]", "[old] runs", "a\\b", "*", "{x}", "ü b", "%41", "new\nline",
    "\udcff", "5.orbax-checkpoint-tmp"))
def test_a_workdir_may_have_any_name(tmp_path, name):
  workdir = tmp_path / name
  with checkpoint.Checkpointer(workdir) as checkpoints:
    checkpoints.save(1, _at(1), META)
  with checkpoint.Checkpointer(workdir) as checkpoints:
    restored, meta = checkpoints.restore_latest(_target())
  _assert_equal(restored, _at(1))
  assert meta == META
  assert checkpoint.read_meta(workdir) == META
  _assert_equal(checkpoint.load_params(workdir)["params"], _at(1).params)
  # No other folder has any of it.
  assert os.listdir(tmp_path) == [name]


def test_a_file_that_orbax_takes_for_its_own_is_named(workdir):
  backup = workdir / "checkpoints/2/state/array_metadatas/process_0~"
  backup.write_text("an editor's")
  with checkpoint.Checkpointer(workdir) as checkpoints:
    with pytest.raises(ConfigError, match="process_0~ is no part") as caught:
      checkpoints.restore_latest(_target())
  assert "\n" not in str(caught.value)
  assert backup.exists()


@pytest.mark.parametrize("text", ("{}", "[]", "null", "", '{"state/a": 1}'))
def test_nothing_is_trusted_without_its_checksums(workdir, text):
  (workdir / "checkpoints/2" / digests.CHECKSUMS).write_text(text)
  assert checkpoint.load_params(workdir)["params"]["frozen"][0] == (
      _at(1).params["frozen"][0])
  with checkpoint.Checkpointer(workdir) as checkpoints:
    assert checkpoints.restore_latest(_target())[1]["at"] == 1


def test_a_damaged_meta_is_that_of_no_run(workdir):
  (workdir / "checkpoints/2/meta/metadata").write_text('{"meta": {"at": 9}}')
  assert checkpoint.read_meta(workdir)["at"] == 1
  shutil.rmtree(workdir / "checkpoints/1")
  assert checkpoint.read_meta(workdir) == {}


def test_what_was_set_aside_before_is_kept(workdir):
  before = workdir / "checkpoints/2.damaged"
  before.mkdir()
  (before / "precious").write_text("")
  _truncate(_step_dir(workdir, 2))
  with checkpoint.Checkpointer(workdir) as checkpoints:
    assert checkpoints.restore_latest(_target())[1]["at"] == 1
  assert (before / "precious").exists()
  assert (workdir / "checkpoints/2.damaged-2/state").exists()


@pytest.mark.parametrize("name", ("007", "٣", "3 copy", "-3", ".3"))
def test_other_names_are_no_steps(workdir, name):
  (workdir / "checkpoints" / name).mkdir()
  _assert_newest_is_2(workdir)


def test_a_run_that_diverged_predicts_nothing(tmp_path):
  current = _at(1)
  params = {**current.params, "frozen": jnp.float32([1, jnp.nan, 2])}
  with checkpoint.Checkpointer(tmp_path) as checkpoints:
    checkpoints.save(1, current.replace(params=params), {})
  with pytest.raises(ConfigError, match="1: params/frozen holds 1 of 3 values"):
    checkpoint.load_params(tmp_path)
