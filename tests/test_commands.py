"""Every command that a document or a docstring names can be started."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
OWN = ("tools", "trainers", "uvim")


def documented_commands():
  """The modules that stand behind `python -m` anywhere in the project."""
  commands = set()
  for pattern in ("*.md", "docs/*.md", "tools/**/*.py", "trainers/**/*.py",
                  "uvim/**/*.py", "configs/**/*.py"):
    for path in ROOT.glob(pattern):
      commands |= set(re.findall(r"python -m ([a-z_]+(?:\.[a-z_\d]+)+)",
                                 path.read_text()))
  return sorted(x for x in commands if x.split(".")[0] in OWN)


def test_documented_commands_start_something():
  commands = documented_commands()
  assert {"trainers.lm", "tools.drill", "tools.sweep"} <= set(commands)
  for command in [*commands, "tools.stress.drill", "tools.stress.fuzz"]:
    path = ROOT / command.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert file.exists(), command
    # Without this line `python -m` would end at once, without a word.
    assert 'if __name__ == "__main__":' in file.read_text(), command
