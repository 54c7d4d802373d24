"""docs/troubleshooting.md: the messages it explains are messages there are."""

import ast
import pathlib
import re

from trainers.report import alarm_kinds

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()


def templates():
  """Every string of the code; … stands for what is filled in."""
  for folder in ("uvim", "pp", "evaluators", "trainers", "tools"):
    for path in (ROOT / folder).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
          yield "".join(part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
          yield node.value


def test_every_message_in_the_table_exists():
  known = list(templates())
  cells = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
  quotes = [q for cell in cells for q in re.findall(r"`([^`]+)`", cell)]
  assert len(quotes) > 10
  for quote in quotes:
    pattern = ".*".join(map(re.escape, quote.strip("…").split("…")))
    assert any(re.search(pattern, text) for text in known), quote


def test_every_alarm_has_its_section():
  # tests/trainers/report/test_alarms.py raises each of them.
  for kind in alarm_kinds.KINDS.values():
    assert f"\n### {kind.title}\n" in TEXT
    link = kind.title.replace(" ", "-")
    assert f"[{kind.title}](#{link})" in TEXT.replace("\n", " ")
