"""Runs: what they write, how they stop, and how they go on."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lm_rooms_panoptic
from tests.test_seams import MeanColorFamily
from tests.trainers import cli
from tests.uvim.test_lock import on_another_machine
from tools import cache_arrays
from tools.stress.drill import read_arrays
from trainers import (
  config_file,
  evaluation,
  families,
  loop,
  preemption,
  scoring,
)
from trainers.families.compiled import Compiled
from trainers.families.lm import LmFamily
from trainers.report.recorder import Recorder
from uvim import files, tree
from uvim.cli import app
from uvim.config import resolve
from uvim.learn import sharding
from uvim.lock import Lock
from uvim.registry import ConfigError
from uvim.store import checkpoint, open_model
from uvim.store.start_from import Store

STEPS = 8
# Of a run whose model is one color: where it does not matter what is trained.
# It compiles in no time, and TensorFlow traces few ops.
COLOR = """
config.kind = "mean_color"
config.pp_train = 'decode|resize(48)|value_range(-1, 1)|keep("image")'
config.pp_eval = config.pp_train
del config.zero_code
config.evals = [("score", "mean")]
config.score = dict(split="validation[:8]", pp=config.pp_eval, pred="loss",
                    log_steps=4)
"""


def read_lines(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


def assert_same_run(workdir, whole, extra="usage"):
  """Parameters, optimizer, key, what else is kept; every reported line."""
  got, want = read_arrays(workdir, STEPS), read_arrays(whole, STEPS)
  for part in ("params", "opt_state", "rng", extra, "step"):
    assert any(part in name for name in want), part
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)
  assert read_lines(workdir) == read_lines(whole)


class Folders:
  """A config file of each stage, and an unbroken run of each.

  They read arrays: with TensorFlow, each run would trace its preprocessing for
  seconds. The runs of one color below read records.
  """

  def __init__(self, folder, data_dir):
    self.folder, self.data_dir = folder, data_dir
    self.configs = {name: cli.write_config(folder, name)
                    for name in ("vqvae", "lm")}
    self.whole = {name: folder / f"{name}_whole" for name in self.configs}
    config = resolve(config_file.load_config(
        str(self.configs["vqvae"]), [f"--config.data_dir={data_dir}"]))
    cache_arrays.write(config, folder / "arrays", augmentations=1)
    self.dataset = f"arrays:{folder / 'arrays'}"

  def overrides(self, trainer):
    out = [f"--config.dataset={self.dataset}"]
    if trainer == "lm":
      out.append(f"--config.oracle.model_init={self.whole['vqvae']}")
    return out

  def run(self, trainer, workdir, **services):
    return cli.call(trainer, self.configs[trainer], workdir,
                    *self.overrides(trainer), services=services)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, rooms_tiny_dir):
  folders = Folders(tmp_path_factory.mktemp("runs"), rooms_tiny_dir)
  for trainer in ("vqvae", "lm"):
    assert folders.run(trainer, folders.whole[trainer]) == 0
  return folders


def test_what_a_run_writes(folders):
  lines = read_lines(folders.whole["vqvae"])
  train = [line for line in lines if "train/loss" in line]
  assert [line["step"] for line in train] == list(range(1, STEPS + 1))
  assert {"train/grad_norm", "train/lr", "train/code/usage",
          "train/code/perplexity", "train/code/splits"} <= set(train[0])
  assert train[0]["train/lr"] == 0 < train[1]["train/lr"]
  assert train[-1]["train/loss"] < train[0]["train/loss"]
  config = json.loads((folders.whole["vqvae"] / "config.json").read_text())
  assert config["total_steps"] == STEPS
  assert list((folders.whole["vqvae"] / "tensorboard").iterdir())


def test_scores_carry_their_settings(folders):
  """BEHAVIOURS 34."""
  lines = read_lines(folders.whole["vqvae"])
  scores = [line for line in lines if "zero_code/PQ" in line]
  assert [line["step"] for line in scores] == [4, STEPS]
  assert all(line["settings"] == {
      "min_fraction": 0.001, "instance_label": "logit_sum",
      "merge_stuff": False, "official": False} for line in scores)

  # Stage II: temperature and seed too, where the config says nothing of them.
  config = lm_rooms_panoptic.get_config("tiny")
  config.data_dir = str(folders.data_dir)
  del config.uvim.pred_kw.temperature, config.uvim.pred_kw.seed
  stage_config = resolve(config)
  block = next(e for e in stage_config.evals if e.name == "uvim")
  family = LmFamily(stage_config)
  made = evaluation.make_evaluation(
      block, family, Compiled(family), sharding.make_mesh(stage_config.mesh))
  assert made.settings == {
      "temperature": 0.0, "seed": 0, "num_samples": 1, "min_fraction": 0.001,
      "instance_label": "logit_sum", "merge_stuff": False, "official": False}


def test_stopped_and_resumed_equals_unbroken(folders, capsys):
  """BEHAVIOURS 37, bit for bit. (Stage I under SIGKILL: tools/test_drill.)"""
  workdir = folders.folder / "lm_stopped"

  class Stops(Recorder):
    def scalars(self, step, values, settings=None):
      super().scalars(step, values, settings)
      if step == 5:
        raise KeyboardInterrupt

  code = folders.run("lm", workdir, make_recorder=Stops)
  assert code == app.EXIT_INTERRUPTED
  assert read_lines(workdir)[-1]["step"] == 5
  capsys.readouterr()
  assert folders.run("lm", workdir) == 0
  assert f"resumed at step 4, {STEPS} steps" in capsys.readouterr().err
  assert_same_run(workdir, folders.whole["lm"])


def trained_on(arrays):
  """The arrays of a stage I run that has gone on meanwhile."""
  name = "state/dictionary"
  return {**arrays, name: arrays[name] + np.float32(1e-3)}


class GoneOn(Store):
  def read_all(self, *args, **kwargs):
    return trained_on(super().read_all(*args, **kwargs))


def test_another_oracle_of_the_same_sizes_is_noticed(
    folders, tmp_path, capsys):
  """Its code would mean something else, and nothing would fail."""
  whole, first = folders.whole["lm"], folders.whole["vqvae"]
  before = sorted(whole.rglob("*"))
  assert folders.run("lm", whole, store=GoneOn()) == app.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert f"{whole} learned the code of another stage I model" in error
  assert "Traceback" not in error
  assert sorted(whole.rglob("*")) == before

  other = trained_on(tree.flatten(checkpoint.load_params(first)))
  files.save_npz(tmp_path / "first.npz", tree.unflatten(other))
  config = scoring.config_of(str(whole))
  for oracle in str(first), str(tmp_path / "first.npz"):
    copy = tmp_path / "lm"
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    fields = json.loads((whole / "config.json").read_text())
    fields["oracle"]["model_init"] = oracle
    (copy / "config.json").write_text(json.dumps(fields))
    fits = (contextlib.nullcontext() if oracle == str(first) else
            pytest.raises(ConfigError, match=f"{copy} learned the code of"))
    with fits:
      open_model.open_model(copy)
    with fits:
      families.open_checkpoint(str(copy), config, oracle=oracle)


def spelled(folders, way):
  """Stage I's workdir by another path."""
  whole = folders.whole["vqvae"]
  if way == "relative":
    return os.path.relpath(whole)
  path = folders.folder / way
  if way == "copy.npz":
    files.save_npz(path, checkpoint.load_params(whole))
    return path
  path.symlink_to(whole)
  return f"~/{way}"


@pytest.mark.parametrize("way", ["relative", "link", "copy.npz"])
def test_stage_ii_goes_on_with_stage_i_by_another_path(
    folders, way, monkeypatch, capsys):
  monkeypatch.setenv("HOME", str(folders.folder))
  oracle = spelled(folders, way)
  code = cli.call(
      "lm", folders.configs["lm"], folders.whole["lm"],
      f"--config.dataset={folders.dataset}",
      f"--config.oracle.model_init={oracle}")
  assert code == 0
  assert f"resumed at step {STEPS}" in capsys.readouterr().err


def copy_of_data(colors, name, rearrange=None):
  """The data set elsewhere, with its training records rearranged."""
  import tensorflow as tf
  data_dir = shutil.copytree(colors.data_dir, colors.folder / name)
  if rearrange:
    path, = data_dir.rglob("rooms-train.tfrecord-*")
    records = [x.numpy() for x in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
      for record in rearrange(records):
        writer.write(record)
  return data_dir


def test_a_data_set_may_move(colors, monkeypatch, capsys):
  data_dir = copy_of_data(colors, "moved")
  monkeypatch.chdir(colors.folder)
  for way in (data_dir, "./moved/"):
    assert colors.run(colors.whole, data_dir=way) == 0
    assert f"resumed at step {STEPS}" in capsys.readouterr().err


def test_another_order_of_the_records_is_other_data(colors, capsys):
  data_dir = copy_of_data(colors, "turned", lambda records: records[::-1])
  code = colors.run(colors.whole, data_dir=data_dir)
  assert code == app.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert re.search(r"config.train_split.checksum: \S+ → \S+", error)
  assert "config.on_other_data = 'warn'" in error
  before = (colors.whole / "metrics.jsonl").read_bytes()
  code = colors.run(colors.whole, data_dir=data_dir, on_other_data="warn")
  assert code == 0
  assert (colors.whole / "metrics.jsonl").read_bytes() == before


def test_weights_to_start_from_may_move_but_not_differ(
    colors, tmp_path, capsys, caplog):
  weights = tmp_path / "start.npz"
  arrays = checkpoint.load_params(colors.whole)
  files.save_npz(weights, arrays)

  def run(model_init=weights):
    return colors.run(tmp_path / "run", model_init=str(model_init))

  assert run() == 0
  # Other arrays at another path are no longer the same run.
  other = {"params": {"color": arrays["params"]["color"] + np.float32(1e-3)}}
  files.save_npz(tmp_path / "other.npz", other)
  capsys.readouterr()
  assert run(model_init=tmp_path / "other.npz") == app.EXIT_BAD_INPUT
  assert "names other arrays than the run" in capsys.readouterr().err
  # The same arrays are.
  shutil.copy(weights, tmp_path / "copy.npz")
  assert run(model_init=tmp_path / "copy.npz") == 0
  assert f"resumed at step {STEPS}" in capsys.readouterr().err
  # They are in the checkpoint, so nobody needs the file.
  assert run(model_init=tmp_path / "gone.npz") == 0
  assert "gone.npz' is not there. The run began with" in caplog.text
  assert f"resumed at step {STEPS}" in capsys.readouterr().err


def test_a_workdir_in_use_is_refused_before_anything_is_written(
    folders, capsys):
  whole = folders.whole["vqvae"]
  before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  other = Lock(whole / "run.lock", "W", owner=on_another_machine(),
               beat_seconds=0.05)
  with other:
    assert folders.run("vqvae", whole) == app.EXIT_BAD_INPUT
  message = f"--workdir {whole} is in use by process {os.getpid()} on node7"
  assert message in capsys.readouterr().err
  assert before == {
      p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}


class Colors:
  """Runs whose model is one color."""

  def __init__(self, folder, data_dir):
    self.folder, self.data_dir = folder, data_dir
    self.whole = folder / "whole"

  def run(self, workdir, kind="mean_color", services=None, model_init=None,
          **fields):
    text = COLOR.replace("mean_color", kind)
    text += f"config.model_init = {model_init!r}\n"
    config = cli.write_config(self.folder, "vqvae", text)
    fields = {"data_dir": self.data_dir, **fields}
    return cli.call(kind, config, workdir, services=services, **fields)


@pytest.fixture(scope="module")
def colors(tmp_path_factory, rooms_tiny_dir):
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(families.FAMILIES, "mean_color", MeanColorFamily)
    patch.setitem(families.FAMILIES, "diverging", Diverging)
    colors = Colors(tmp_path_factory.mktemp("colors"), rooms_tiny_dir)
    assert colors.run(colors.whole) == 0
    yield colors


def test_a_run_that_lost_its_workdir_saves_nothing(colors, capsys):
  workdir = colors.folder / "lost"

  class LosesTheLock(Recorder):
    def scalars(self, step, values, settings=None):
      super().scalars(step, values, settings)
      if step == 3:
        (workdir / "run.lock").unlink()

  code = colors.run(workdir, services={"make_recorder": LosesTheLock})
  assert code == app.EXIT_BAD_INPUT
  assert "this process lost its lock" in capsys.readouterr().err
  assert os.listdir(workdir / "checkpoints") == ["2"]


def test_a_preempted_run_saves_and_goes_on(colors, capsys):
  """SIGTERM in an evaluation, then in a step between two checkpoints."""
  workdir = colors.folder / "preempted"

  class AsksAtStep4(Recorder):
    def scalars(self, step, values, settings=None):
      super().scalars(step, values, settings)
      if step == 4 and asks:
        asks.clear()
        os.kill(os.getpid(), signal.SIGTERM)

  def run():
    return colors.run(workdir, services={"make_recorder": AsksAtStep4})

  before = signal.getsignal(signal.SIGTERM)
  asks = ["before the evaluation, whose first batch sees it"]
  assert run() == app.EXIT_PREEMPTED == 75
  assert "SIGTERM: stopped after step 4 of 8" in capsys.readouterr().err
  assert signal.getsignal(signal.SIGTERM) == before
  assert [line["step"] for line in read_lines(workdir)] == [1, 2, 3, 4]
  asks = ["after the evaluation; the next step sees it"]
  assert run() == app.EXIT_PREEMPTED
  assert "stopped after step 5 of 8" in capsys.readouterr().err
  assert run() == 0
  assert "resumed at step 5, 8 steps" in capsys.readouterr().err
  assert_same_run(workdir, colors.whole, extra="ema")


@pytest.fixture
def interruptible():
  """Ctrl-C as in a terminal, though the tests may run in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_asked_twice_a_run_stops_at_once(interruptible, capsys):
  with preemption.Watch() as watch:
    watch.check()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(preemption.Preempted, match="SIGINT"):
      watch.check()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert "once more stops at once" in capsys.readouterr().err


def test_a_signal_that_is_ignored_stays_ignored(interruptible):
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  with preemption.Watch() as watch:
    os.kill(os.getpid(), signal.SIGINT)
    watch.check()


def test_a_finished_run_does_nothing_more(folders, capsys):
  whole = folders.whole["vqvae"]
  before = (whole / "metrics.jsonl").read_text()
  assert folders.run("vqvae", whole) == 0
  assert f"resumed at step {STEPS}" in capsys.readouterr().err
  assert (whole / "metrics.jsonl").read_text() == before


class Diverging(MeanColorFamily):
  """Its third step is not finite."""
  kind = "diverging"

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    loss, told = super().loss(params, extra, frozen, batch, rngs_B, step)
    return jnp.where(step == 2, jnp.nan, 1) * loss, told


def test_divergence_stops_and_keeps_the_last_good(colors, capsys):
  workdir = colors.folder / "diverged"
  run = functools.partial(
      colors.run, workdir, "diverging", checkpoint_steps=1)
  assert run() == app.EXIT_DIVERGED
  error = capsys.readouterr().err
  assert "The loss is nan at step 3" in error
  assert "Traceback" not in error
  saved = {p.name for p in (workdir / "checkpoints").iterdir()}
  assert saved == {"1", "2"}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(
      checkpoint.load_params(workdir)))

  # The same run may go on without that step.
  assert run(skip_bad_steps=1) == 0
  lines = [x for x in read_lines(workdir) if "train/grad_norm" in x
           or "train/skipped" in x]
  assert [x.get("train/skipped") for x in lines] == [None] * 2 + [1.0] * 6
  assert ["train/loss" in x for x in lines] == [True] * 2 + [False] + [True] * 5
  assert lines[1]["train/lr"] == lines[2]["train/lr"] > lines[3]["train/lr"]


def test_a_gradient_that_is_not_finite_stops_too():
  loop.check_finite(1, {"loss": 1.0, "grad_norm": 1.0})
  with pytest.raises(loop.Diverged, match="grad_norm is inf at step 7"):
    loop.check_finite(7, {"loss": 1.0, "grad_norm": np.inf})


def test_workdir_of_another_config_is_refused(folders, capsys):
  whole = folders.whole["vqvae"]
  before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  code = cli.call("vqvae", folders.configs["vqvae"], whole,
                  *folders.overrides("vqvae"), lr=0.5)
  assert code == app.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert "another config" in error
  assert re.search(r"config\.lr: [\d.]+ → 0\.5", error)
  assert "Traceback" not in error
  assert before == {
      p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}


def test_how_often_to_report_may_change(folders):
  """A run may be resumed with other periods: no ConfigError."""
  whole = folders.whole["vqvae"]
  config = json.loads((whole / "config.json").read_text())
  for name in ("log_training_steps", "checkpoint_steps", "evals"):
    changed = types.SimpleNamespace(to_json=lambda n=name: {**config, n: 77})
    loop.check_workdir(whole, changed)
  changed = types.SimpleNamespace(to_json=lambda: {**config, "wd": 77})
  with pytest.raises(ConfigError, match="config.wd: .* → 77"):
    loop.check_workdir(whole, changed)
