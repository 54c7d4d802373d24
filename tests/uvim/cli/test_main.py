"""The command `uvim`, and that pip installs it and nothing beside it."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

import uvim
from tools import convert_checkpoint, predict
from uvim.cli import main as uvim_command

ROOT = pathlib.Path(__file__).parents[3]


def test_version(capsys):
  assert uvim_command.main(["version"]) == 0
  assert capsys.readouterr().out == f"uvim {uvim.__version__}\n"


@pytest.mark.parametrize("argv,words", [
    (["predct"], "Unknown command 'predct'. Did you mean 'predict'?"),
    ([], "uvim --help"),
    (["version", "now"], "'now'"),
    (["predict", "a.png"], "uvim predict --help"),
    (["convert", "a.npz"], "uvim convert --help"),
    (["explore", "now"], "uvim explore --help"),
])
def test_mistakes(capsys, argv, words):
  assert uvim_command.main(argv) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and error.count("\n") == 1
  assert words in error


@pytest.mark.parametrize("argv,words", [
    (["--help"], ["uvim predict", "uvim explore", "uvim convert",
                  "uvim push"]),
    (["predict", "--help"], ["usage: uvim predict", "--temperature", "--top_k",
                             "--min_fraction", "--full_luma", "--rerank"]),
    (["explore", "--help"], ["usage: uvim explore", "--examples"]),
    (["convert", "--help"], ["usage: uvim convert", "SRC", "--pack"]),
    (["push", "--help"], ["usage: uvim push", "OWNER/NAME"]),
    (["--version"], [f"uvim {uvim.__version__}"]),
])
def test_help(capsys, argv, words):
  with pytest.raises(SystemExit) as ended:
    uvim_command.main(argv)
  assert ended.value.code == 0
  text = capsys.readouterr().out
  for word in words:
    assert word in text


def test_the_commands_of_a_checkout_keep_their_names(capsys):
  for command, name in ((predict, "tools.predict"),
                        (convert_checkpoint, "tools.convert_checkpoint")):
    assert command.main([]) == 2
    assert f"python -m {name} --help" in capsys.readouterr().err


def test_help_needs_neither_a_checkout_nor_tensorflow(tmp_path):
  """Only the package, as in a folder of its own."""
  code = ("import sys\n"
          "for name in ('tensorflow', 'pp', 'trainers', 'tools',"
          " 'configs', 'evaluators'):\n"
          "  sys.modules[name] = None\n"
          f"sys.path.insert(0, {str(tmp_path)!r})\n"
          "from uvim.cli import main\n"
          "sys.exit(main.main(['predict', '--help']))")
  (tmp_path / "uvim").symlink_to(ROOT / "uvim")
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
      text=True, timeout=120, env={**os.environ, "JAX_PLATFORMS": "cpu"})
  assert done.returncode == 0, done.stderr


def test_pip_installs_one_package_and_one_command(tmp_path):
  pytest.importorskip("setuptools")
  # All that a clone has, so that nothing but setup.py keeps the rest out.
  for path in ROOT.iterdir():
    is_ours = not path.name.startswith(".") and path.name not in (
        "build", "dist", "uvim.egg-info")
    if is_ours:
      (tmp_path / path.name).symlink_to(path)
  done = subprocess.run(
      [sys.executable, "setup.py", "--quiet", "bdist_wheel"], cwd=tmp_path,
      capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  wheel, = (tmp_path / "dist").glob("*.whl")
  about = f"uvim-{uvim.__version__}.dist-info"
  with zipfile.ZipFile(wheel) as archive:
    names = set(archive.namelist())
    commands = archive.read(f"{about}/entry_points.txt").decode()
  assert {name.split("/")[0] for name in names} == {"uvim", about}
  assert commands.split() == ["[console_scripts]", "uvim", "=",
                              "uvim.cli.main:main"]
  # Every module, the page and the packs; none is forgotten for want of an
  # __init__.py.
  wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "uvim").rglob("*")
            if path.suffix in (".py", ".html", ".css", ".js")}
  wanted |= {str(path.relative_to(ROOT))
             for path in (ROOT / "uvim/packs").rglob("*") if path.is_file()}
  assert {name for name in names if name.startswith("uvim/")} == wanted
