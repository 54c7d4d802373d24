"""What --help says about a config comes from the config file alone."""

import pathlib
import runpy

import pytest

from trainers import config_help

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config_files():
  """Every file of configs/ that a trainer takes."""
  found = []
  for path in sorted(CONFIGS.glob("*.py")):
    if "def get_config(" in path.read_text():
      found.append(path)
  return found


@pytest.mark.parametrize("path", config_files(), ids=lambda path: path.stem)
def test_the_docstring_explains_each_argument(path):
  module = runpy.run_path(path)
  for name in config_help.arguments_of(module["get_config"]):
    assert f"`{name}" in module["__doc__"], name


def test_arguments_and_their_defaults():
  text = config_help.describe(f"{CONFIGS / 'mae_images.py'}:epochs=3")
  assert "a masked autoencoder" in text
  assert "\n  epochs = 800\n" in text and text.endswith("res = 224")


def test_a_config_that_takes_no_argument(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text('"""My own."""\n\ndef get_config():\n  return {}\n')
  assert config_help.describe(str(path)) == f"config {path}:\n\nMy own."


def test_a_broken_config_does_not_hide_the_help(tmp_path):
  path = tmp_path / "broken.py"
  path.write_text("1 / 0")
  text = config_help.epilog(["--help", "--config", str(path)])
  assert text == f"--config {path}: division by zero"


def test_without_help_no_config_is_run(tmp_path):
  path = tmp_path / "broken.py"
  path.write_text("1 / 0")
  assert config_help.epilog(["--config", str(path)]) == ""
