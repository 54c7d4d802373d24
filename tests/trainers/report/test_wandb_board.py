"""The second board: it gets what TensorBoard gets, and only if asked for."""

import json
import sys
import types

import numpy as np
import pytest

from tests.trainers import cli
from tests.trainers.report import runs
from trainers import main
from trainers.report import wandb_board
from uvim.cli import app
from uvim.registry import ConfigError


class FakeWandb:
  """What the module wandb offers; notes how it is used."""

  def __init__(self):
    self.starts = []
    self.logged = []
    self.num_finished = 0

  def init(self, **options):
    self.starts.append(options)
    return types.SimpleNamespace(log=self.log, finish=self.finish)

  def log(self, values, step):
    self.logged.append((step, values))

  def finish(self):
    self.num_finished += 1

  def Image(self, image):
    return "image", image.shape

  def Histogram(self, values):
    return "histogram", len(values)


def test_wandb_gets_what_tensorboard_gets(tmp_path, monkeypatch):
  fake = FakeWandb()
  monkeypatch.setitem(sys.modules, "wandb", fake)
  (tmp_path / "config.json").write_text(json.dumps(runs.CONFIG))
  for _ in range(2):  # Started, and resumed.
    writer = runs.make_recorder(tmp_path, wandb="paintings")
    writer.scalars(3, {"train/loss": 2.0})
    writer.image(3, "panel", np.zeros((4, 5, 3), np.uint8))
    writer.review(3, np.int32([1, 2]))
    writer.close()
  first, second = fake.starts
  assert first["project"] == "paintings"
  assert first["config"] == runs.CONFIG
  assert first["id"] == second["id"] and second["resume"] == "allow"
  assert fake.num_finished == 2
  assert fake.logged[:3] == [
      (3, {"train/loss": 2.0}), (3, {"panel": ("image", (4, 5, 3))}),
      (3, {"code/uses_per_word": ("histogram", 2)})]


def test_wandb_that_is_absent_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)  # Its import fails.
  with pytest.raises(ConfigError, match="pip install wandb"):
    wandb_board.check()
  # A run that does not ask for it does not need it.
  runs.make_recorder(tmp_path).close()


def test_the_flag_is_checked_before_anything_is_made(
    tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "wandb", None)
  config = cli.write_config(tmp_path, "vqvae")
  argv = cli.arguments(config, tmp_path / "run", "--wandb=paintings")
  assert main.main("vqvae", "trainers.vqvae", argv) == app.EXIT_BAD_INPUT
  error = capsys.readouterr().err
  assert error.startswith("error: --wandb needs") and error.count("\n") == 1
  assert not (tmp_path / "run").exists()
