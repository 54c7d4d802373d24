"""Mistakes on the command line: one line that helps, exit code 2, no run.

All of them must be found before anything is compiled or written.
"""

import os
import pathlib
import runpy
import subprocess
import sys

import jax
import pytest

import uvim
from tests.trainers import cli, tiny
from trainers import main
from trainers.families.vqvae import VqvaeFamily
from uvim.cli import app

ROOT = pathlib.Path(__file__).parents[1]
STAGE_1 = ROOT / "configs" / "vqvae_rooms_panoptic.py:tiny"
STAGE_2 = ROOT / "configs" / "lm_rooms_panoptic.py:tiny"


@pytest.fixture
def fails(tmp_path, rooms_tiny_dir, capsys):
  """Calls a trainer that must refuse; returns the message."""
  def call(trainer, config, *overrides, data_dir=rooms_tiny_dir, **fields):
    workdir = tmp_path / "workdir"
    code = cli.call(trainer, config, workdir, *overrides, data_dir=data_dir,
                    **fields)
    error = capsys.readouterr().err
    assert code == app.EXIT_BAD_INPUT, error
    return check_message(error, workdir)

  return call


def check_message(error, workdir):
  assert "Traceback" not in error
  assert "new run" not in error and "resumed" not in error
  assert not workdir.exists()
  message = [x for x in error.splitlines() if x.startswith("error: ")]
  assert len(message) == 1, error
  return error[error.index("error: "):]


@pytest.mark.parametrize("override,words", [
    # A key nobody knows, and the one that was meant.
    ("modle.width=8", ["config.modle", "'model'"]),
    ("model.widht=8", ["config.model.widht", "'width'"]),
    ("zero_code.log_step=8", ["config.zero_code.log_step", "'log_steps'"]),
    ("batch_size=many", ["config.batch_size", "many"]),
    # Preprocessing strings.
    ("pp_train=decode|resise(64)", ["'resise'", "'resize'"]),
    ("pp_train=decode|resize(64, methid='area')", ["methid", "'method'"]),
    ("pp_train=decode|resize(64", ["resize(64"]),
    ("pp_eval=decode|flip_rl", ["'flip_rl'", "'flip_lr'"]),
    ("zero_code.pp=decode|value_rnge(-1, 1)", ["value_rnge", "value_range"]),
    # Data.
    ("dataset=coco/2017_panoptik", ["coco/2017_panoptik", "prepare_data"]),
    ("train_split=trian", ["trian", "train (64)"]),
    ("zero_code.split=validation[:0]", ["validation[:0]", "no examples"]),
    # Sizes.
    ("model.patch_size=(10,10)", ["patch_size", "(10, 10)", "(48, 48)"]),
    ("model.input_size=(60,48)", ["patch_size", "(60, 48)"]),
    ("model.input_size=(32,32)", ["Labels are 48x48", "(32, 32)"]),
    ("model.code_len=15", ["code_len", "15", "square"]),
    ("model.num_heads=3", ["num_heads", "3", "32"]),
    ("model.inputs.semantics=(13,16)", ["inputs.semantics", "16", "64"]),
    ("batch_size=12", ["config.batch_size = 12", "8 devices"]),
    ("batch_size=0", ["config.batch_size = 0"]),
    # Names in tables.
    ("task=panoptic", ["'panoptic'", "'panoptic_segmentation'"]),
    ("model_name=vti", ["vti", "'vit'"]),
    ("zero_code.pred=zero", ["'zero'", "config.zero_code.pred"]),
    ("optax_name=scale_by_adm", ["scale_by_adm", "scale_by_adam"]),
    ("schedule.decay_type=cosin", ["cosin", "cosine"]),
    # Numbers that do not go together.
    ("schedule.warmup_steps=4", ["warmup_steps", "4"]),
])
def test_overrides(fails, override, words):
  message = fails("vqvae", STAGE_1, f"--config.{override}")
  for word in words:
    assert word in message


@pytest.mark.parametrize("line,words", [
    ("config.num_epoch = 3", ["config.num_epoch' = 3", "config.num_epochs"]),
    ("config.model.widht = 3", ["config.model.widht", "'config.model.width'"]),
    ("config.zero_code.log_step = 3", ["config.zero_code.log_step",
                                       "config.zero_code.log_steps"]),
    ("config.zero_code.pred_kw.min_fractoin = .1", [
        "min_fractoin", "pred_kw.min_fraction'"]),
    ("config.zero_code.batch_size = 9; config.mesh = [('data', -1)]",
     ["= 9", "8 devices"]),
    ("config.zero_code.options = {'merge': 1}", ["options.merge'",
                                                "merge_stuff"]),
    ("config.evals = [('zero_code', 'coco')]", ["'coco'", "coco_panoptic"]),
    ("config.evals = [('zero', 'coco_panoptic')]", ["config.zero"]),
    ("config.lr_mults = [('encodr.*', .1)]", ["encodr", "lr_mults"]),
    ("config.optax = {'b3': .9}", ["b3"]),
    ("config.pp_train = config.pp_train.replace('resize(48, anti', "
     "'resize(32, anti')", ["'image' of (32, 32)", "(48, 48)"]),
    ("config.pp_train += '|keep(\"image\")'", ["'labels'", "image"]),
    ("config.pp_modules = ['ops_generall']", ["ops_generall", "ops_general"]),
    ("config.model_init = 'howto-i21k-L/16'", ["howto-i21k-L/16", "ViT"]),
    ("config.model_init = 'nowhere.npz'", ["nowhere.npz"]),
    ("config.num_epochs = 3", ["num_epochs", "total_steps"]),
    ("config.mesh = [('dat', -1)]", ["config.mesh", "'data'"]),
    ("config.sharding = [('.*', 'fdsp(data)')]", ["fdsp(data)"]),
    ("config.sharding = [('encodr.*', 'fsdp(data)')]", ["encodr"]),
    ("del config.lr", ["config.lr"]),
])
def test_config_files(fails, tmp_path, line, words):
  config = cli.write_config(tmp_path, "vqvae", line)
  message = fails("vqvae", config)
  for word in words:
    assert word in message


@pytest.mark.parametrize("text,words", [
    ("def get_config():\n  return confg", ["confg"]),
    ("def get_config(:", ["syntax"]),
    ("def get_config():\n  raise ValueError('not so')", ["not so"]),
])
def test_broken_config_files(fails, tmp_path, text, words):
  path = tmp_path / "broken.py"
  path.write_text(text)
  message = fails("vqvae", path)
  for word in words:
    assert word in message


def test_absent_config_file(fails, tmp_path):
  assert "absent.py: there is no such file" in fails(
      "vqvae", tmp_path / "absent.py")


def test_unknown_config_argument(fails):
  message = fails("vqvae", f"{STAGE_1}y")
  assert "'tinyy'" in message and "'tiny'" in message


def test_missing_and_superfluous_flags(tmp_path, capsys):
  for argv, word in (
      (["--workdir", str(tmp_path)], "required: --config"),
      (["--config", str(STAGE_1)], "required: --workdir"),
      (["--config", str(STAGE_1), "--workdir", "x", "--wokdir", "x"], "wokdir"),
      (["--config", str(STAGE_1), "--workdir", "x", "y"], "'y'"),
      (["--config", str(STAGE_2), "--workdir", str(tmp_path / "x")],
       "python -m trainers.lm")):
    code = main.main("vqvae", "trainers.vqvae", argv)
    error = capsys.readouterr().err
    assert code == app.EXIT_BAD_INPUT, error
    assert error.startswith("error: ") and word in error
    assert "Traceback" not in error


@pytest.mark.parametrize("argv,words", [
    (["--help"], ["What it does.", "--workdir", "--help --config FILE"]),
    (["--help", "--config", str(STAGE_1)],
     ["--workdir", "Stage I on `rooms`", "tiny = False", "encoder = ''"]),
    ([f"--config={STAGE_2}", "-h"], ["Stage II on `rooms`", "tiny = False"]),
    (["--config", "absent.py", "--help"],
     ["--workdir", "absent.py: there is no such file"]),
    (["--version"], [f"uvim {uvim.__version__}"]),
])
def test_help(capsys, argv, words):
  with pytest.raises(SystemExit) as done:
    main.main("vqvae", "What it does.", argv)
  assert done.value.code == 0
  printed = capsys.readouterr().out
  for word in words:
    assert word in printed


def test_workdir_that_cannot_be(tmp_path, rooms_tiny_dir, capsys):
  (tmp_path / "file").write_text("")
  config = cli.write_config(tmp_path, "vqvae")
  code = cli.call("vqvae", config, tmp_path / "file" / "workdir",
                  data_dir=rooms_tiny_dir)
  error = capsys.readouterr().err
  assert code == app.EXIT_BAD_INPUT
  assert "--workdir" in error and "Traceback" not in error


# ── Stage II ─────────────────────────────────────────────────────────────────


def test_missing_checkpoint(fails, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "text.npz").write_text("no zip file")
  for path, word in (("absent", "No checkpoint"), ("empty", "no checkpoint"),
                     ("text.npz", "not a readable")):
    message = fails("lm", STAGE_2,
                    f"--config.oracle.model_init={tmp_path / path}")
    assert str(tmp_path / path) in message and word in message


def test_oracle_of_another_config(fails, tmp_path):
  stage = VqvaeFamily(tiny.stage_i_config())
  path = tmp_path / "oracle.npz"
  wanted = stage.wanted_arrays()
  arrays = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), wanted)
  from uvim import files
  files.save_npz(path, arrays)
  message = fails("lm", STAGE_2, f"--config.oracle.model_init={path}")
  assert "config.oracle.model_init" in message
  assert "[4, 32] float32 saved" in message or "saved, " in message


@pytest.mark.parametrize("override,words", [
    ("oracle.model_int=x", ["config.oracle.model_int", "'model_init'"]),
    ("oracle.model.code_len=15", ["code_len", "15"]),
    ("model.patches.size=(7,7)", ["patches.size", "(7, 7)"]),
    ("model.vocab_size=99", ["config.model.vocab_size = 99", "17"]),
    ("model.posemb_type=learned", ["learned", "'learn'"]),
])
def test_stage_ii_overrides(fails, override, words):
  message = fails("lm", STAGE_2, f"--config.{override}")
  for word in words:
    assert word in message


# ── As a user meets it ───────────────────────────────────────────────────────


def test_the_command_of_stage_i(tmp_path, rooms_tiny_dir):
  workdir = tmp_path / "workdir"
  argv = cli.arguments(STAGE_1, workdir, data_dir=rooms_tiny_dir,
                       pp_train="decode|resise(64)")
  done = subprocess.run(
      [sys.executable, "-m", "trainers.vqvae", *argv], cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True,
      text=True)
  assert done.returncode == app.EXIT_BAD_INPUT
  assert "Did you mean 'resize'?" in check_message(done.stderr, workdir)
  assert done.stdout == ""


@pytest.mark.parametrize("trainer", ["lm", "mae", "dino", "pix2seq_d"])
def test_the_commands_of_the_other_families(
    tmp_path, monkeypatch, capsys, trainer):
  """As `python -m` runs them, but in this process, which has its imports."""
  # A config of stage I, which each of them refuses.
  argv = cli.arguments(STAGE_1, tmp_path / "workdir")
  monkeypatch.setattr(sys, "argv", [f"trainers/{trainer}.py", *argv])
  with pytest.raises(SystemExit) as done:
    runpy.run_module(f"trainers.{trainer}", run_name="__main__")
  assert done.value.code == app.EXIT_BAD_INPUT
  message = check_message(capsys.readouterr().err, tmp_path / "workdir")
  assert "train it with python -m trainers.vqvae." in message
