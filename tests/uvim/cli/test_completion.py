"""The scripts of `uvim completion` know every command and option."""

import contextlib
import shutil
import subprocess

import pytest

from uvim.cli import completion
from uvim.cli import main as uvim_command

COMMANDS = [name for name in uvim_command.COMMANDS if name != "version"]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
  """Shell → file with the script as the command prints it."""
  folder = tmp_path_factory.mktemp("completion")
  paths = {}
  for shell in completion.SHELLS:
    paths[shell] = folder / shell
    with paths[shell].open("w") as file, contextlib.redirect_stdout(file):
      assert uvim_command.main(["completion", shell]) == 0
  return paths


def completions(script, words, folder):
  """What bash offers for the last of the words."""
  quoted = " ".join(f"'{word}'" for word in words)
  code = (f"source {script}; COMP_WORDS=({quoted}); "
          f"COMP_CWORD={len(words) - 1}; _shtab_uvim; "
          "printf '%s\\n' \"${COMPREPLY[@]}\"")
  done = subprocess.run(
      ["bash", "-c", code], cwd=folder, capture_output=True, text=True,
      timeout=60)
  assert not done.stderr
  return set(done.stdout.split())


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize("words,wanted", [
    (["pre"], {"predict"}),
    (["predict", "--overl"], {"--overlay"}),
    (["predict", "--reduce", ""], {"likelihood", "agreement", "mean"}),
    # After a switch and a value, a file again; a switch has no value.
    (["predict", "--overlay", "--seed", "1", ""], {"image.jpg", "run"}),
    (["predict", "--checkpoint", "r"], {"run"}),
    (["convert", "--pack", ""], {"image.jpg", "run"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
])
def test_bash_offers_what_may_stand_there(scripts, tmp_path, words, wanted):
  (tmp_path / "image.jpg").touch()
  (tmp_path / "run").mkdir()
  found = completions(scripts["bash"], ["uvim", *words], tmp_path)
  # In place of a positional argument, options may stand too.
  found = {word for word in found if word in wanted or word[0] != "-"}
  assert found == wanted


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_command_and_option_is_there(scripts, shell):
  script = scripts[shell].read_text()
  for command in COMMANDS:
    assert command in script
    for option in options_of(command):
      # fish has no dashes there.
      assert option.lstrip("-") in script, (command, option)


def options_of(command):
  return [name for argument in arguments_of(command)
          for name in argument.option_strings]


def arguments_of(command):
  return completion.command_parser(command)._actions


def test_paths_are_arguments():
  names = set()
  for command in COMMANDS:
    names |= {argument.dest for argument in arguments_of(command)}
  assert set(completion.PATHS) <= names


def test_another_shell_is_refused_in_one_line(capsys):
  assert uvim_command.main(["completion", "csh"]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "'csh'" in error and "zsh" in error
