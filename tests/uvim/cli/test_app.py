"""The one front of every command: paths, errors, exit codes."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tools import passes
from uvim.cli import app
from uvim.registry import ConfigError


def run(capsys, *argv, fails_with=None):
  """(exit code, what stands on stderr, the parsed options) of a command."""
  seen = []

  def command(args):
    seen.append(args)
    if fails_with is not None:
      raise fails_with

  parser = app.make_parser("test", None)
  parser.add_argument("paths", nargs="*")
  parser.add_argument("--out")
  code = app.run(parser, command, argv, takes_overrides=True)
  return code, capsys.readouterr().err, seen


def test_home_is_expanded_wherever_it_stands(capsys):
  home = os.path.expanduser("~")
  _, _, [args] = run(capsys, "--out=~/a", "~/b", "gs://~", "--config.c=~/d")
  assert args.out == f"{home}/a"
  assert args.paths == [f"{home}/b", "gs://~"]
  assert args.overrides == [f"--config.c={home}/d"]
  _, _, [args] = run(capsys, "--out", "~/a")
  assert args.out == f"{home}/a"


@pytest.mark.parametrize("argv", (["--out="], ["--out", ""], [""]))
def test_an_empty_path_is_not_the_current_folder(capsys, argv):
  code, error, seen = run(capsys, *argv)
  assert code == 2
  assert "empty" in error
  assert not seen


NOT_TEXT = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
ERRORS = (
    (ConfigError("config.lr = 0"), 2, "error: config.lr = 0\n"),
    (KeyboardInterrupt(), 130, "error: interrupted\n"),
    (OSError(errno.ENOSPC, "No space left on device", "/d/a"), 2,
     "error: /d/a: No space left on device\n"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "/d/b"), 2,
     "error: /d/b: File name too long\n"),
    (OSError("bad archive"), 2, "error: bad archive\n"),
    (MemoryError(), 2, "error: out of memory. Smaller"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nat"),
     2, "error: out of memory (RESOURCE_EXHAUSTED: Out of"),
    (NOT_TEXT, 2, "error: some file is not text in UTF-8"),
)


@pytest.mark.parametrize("error, code, line", ERRORS)
def test_what_a_user_can_mend_is_one_line(capsys, error, code, line):
  found_code, text, _ = run(capsys, fails_with=error)
  assert found_code == code
  assert text.startswith(line)
  assert text.count("\n") == 1


NAMES = (
    ("a\nb.png", r"a\nb.png"),
    ("a\r\x1b[2K", r"a\r\x1b[2K"),
    ("a\u2028b", r"a\u2028b"),
    ("a\u202egnp", r"a\u202egnp"),
    ("a\udcff", r"a\udcff"),
    ("Bäume 木 ~", "Bäume 木 ~"),
)


@pytest.mark.parametrize("name, shown", NAMES)
@pytest.mark.parametrize("make", (
    ConfigError, app.Stop, lambda name: OSError(errno.ENOENT, "gone", name)))
def test_no_name_breaks_a_line_or_controls_the_terminal(
    capsys, name, shown, make):
  _, text, _ = run(capsys, fails_with=make(name))
  assert text.startswith(f"error: {shown}")
  assert text.count("\n") == 1


def test_several_problems_have_a_line_each(capsys):
  with pytest.raises(ConfigError) as caught:
    passes.raise_problems(["a\nb: bad", "c\n  d: bad"], "--images")
  _, text, _ = run(capsys, fails_with=caught.value)
  assert text == ("error: --images: 2 problems.\n  a\\nb: bad\n"
                  "  c\\n  d: bad\n")
  with pytest.raises(ConfigError, match=r"^--images: a\\nb: bad$"):
    passes.raise_problems(["a\nb: bad"], "--images")


def test_a_fault_of_ours_keeps_its_traceback(capsys):
  with pytest.raises(ZeroDivisionError):
    run(capsys, fails_with=ZeroDivisionError())


def test_a_reader_that_goes_away_is_no_error():
  code = """
from uvim.cli import app
def command(args):
  for _ in range(100_000):
    print("line")
raise SystemExit(app.run(app.make_parser("test", None), command, []))
"""
  process = subprocess.Popen(
      [sys.executable, "-c", code], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)
  process.stdout.readline()
  process.stdout.close()
  with process.stderr:
    assert process.stderr.read() == b""
  assert process.wait() == 141


def test_ctrl_c_before_the_command_begins_is_one_line():
  code = ("from uvim.cli import app\napp.quiet_interrupts()\n"
          "raise KeyboardInterrupt")
  result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
  assert result.stderr == b"error: interrupted\n"
  # A shell shows 130 for it.
  assert result.returncode == -signal.SIGINT
