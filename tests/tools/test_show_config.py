"""What tools.show_config prints."""

import pathlib

import pytest

from tools import show_config
from trainers import config_file
from uvim import tree
from uvim.config import resolve

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
LM_ROOMS = f"{CONFIGS}/lm_rooms_panoptic.py"

NEEDS_ARGUMENT = """
from configs import vqvae_rooms_panoptic

def get_config(arg):
  return vqvae_rooms_panoptic.get_config(arg)
"""


@pytest.fixture
def shown(capsys):
  """Calls the command; returns (head, field → (origin, value as printed))."""
  def call(*argv):
    assert show_config.main(list(argv)) == 0
    lines = capsys.readouterr().out.splitlines()
    fields = {}
    for line in lines[2:]:
      before, _, value = line.partition(" = ")
      origin, _, path = before.rpartition(" config.")
      fields[path] = (origin.strip(), value)
    return lines[:2], fields

  return call


def test_each_value_says_where_it_comes_from(shown):
  head, fields = shown(f"{LM_ROOMS}:tiny", "--config.lr=0.5",
                       "--config.oracle.model.dict_size", "64",
                       "--config.grad_clip_norm=1.0")
  assert head == ["family       lm (python -m trainers.lm)", "steps        4"]
  assert fields["wd"] == ("config file", "0.0001")
  assert fields["data_dir"] == ("config file", "None")
  assert fields["batch_size"] == ("argument", "8")
  assert fields["uvim.split"] == ("argument", "'validation[:8]'")
  assert fields["lr"] == ("override", "0.5")
  # The value is what it was, but the command line says so now.
  assert fields["grad_clip_norm"] == ("override", "1.0")
  # A reference follows what an override changes.
  assert fields["model.vocab_size"] == ("override", "65")
  assert fields["kind"] == ("default", "'lm'")
  assert fields["keep_checkpoint_steps"] == ("default", "None")
  assert fields["uvim.prefix"] == ("default", "'uvim/'")
  # Fields of the models that nobody names, and an evaluator that two fields
  # mean.
  assert fields["model.style"] == ("config file", "'ar'")
  assert fields["oracle.model.head_zeroinit"] == ("default", "True")
  assert fields["val.pred"] == ("default", "'loss'")


@pytest.mark.parametrize("path", [
    LM_ROOMS, f"{CONFIGS}/vqvae_nyu_depth.py:scenes"],
    ids=["stage II", "stage I"])
def test_the_shown_values_make_the_same_config(path):
  config = resolve(config_file.load_config(path))
  values = show_config.all_values(config)
  nested = tree.unflatten(
      {name.replace(".", "/"): value for name, value in values.items()})
  again = resolve(nested)
  assert again.evals == config.evals
  assert show_config.all_values(again) == values


def test_steps_in_epochs_depend_on_the_data(shown):
  head, _ = shown(f"{CONFIGS}/vqvae_coco_panoptic.py")
  assert head[0] == "family       vqvae (python -m trainers.vqvae)"
  assert head[1].endswith("1000 epochs × examples of 'train[4096:]' / 1024")


def test_a_file_may_need_its_argument(shown, tmp_path):
  path = tmp_path / "config.py"
  path.write_text(NEEDS_ARGUMENT)
  _, fields = shown(f"{path}:tiny")
  assert fields["batch_size"] == ("argument", "8")
  assert fields["panel_steps"] == ("default", "None")


@pytest.mark.parametrize("argv,message", [
    (["no_such.py"], "no_such.py: there is no such file"),
    ([f"{LM_ROOMS}:tin"], "Did you mean 'tiny'"),
    ([LM_ROOMS, "--config.lrr=1"], "Did you mean 'lr'"),
    ([LM_ROOMS, "--config.batch_size=0"], "config.batch_size = 0"),
    ([LM_ROOMS, "--steps"], "Unexpected argument '--steps'")])
def test_mistakes_are_one_line(capsys, argv, message):
  assert show_config.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ")
  assert error.count("\n") == 1
  assert message in error
