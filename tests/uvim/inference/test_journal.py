"""What is known of a folder of predictions after a process was stopped."""

import os

import pytest

from uvim.inference import journal
from uvim.registry import ConfigError


def done(name, height=1):
  return journal.Done(name, [3, 4], {"height": height}, [[]])


@pytest.fixture
def written(tmp_path):
  """A journal with two images, one of which is done."""
  written = journal.Journal(tmp_path)
  written.start({"seed": 0})
  written.append(journal.Named("a", 1, "/a.jpg"), done("a"),
                 journal.Named("b", 2, "/b.jpg"))
  return written


def load(folder):
  loaded = journal.Journal(folder)
  loaded.load()
  return loaded


def test_it_comes_back(written, tmp_path):
  loaded = load(tmp_path)
  assert loaded.header == written.header and loaded.named == written.named
  assert loaded.stamps == {"a": [3, 4]}
  assert [row.name for _, row in loaded.done()] == ["a"]


@pytest.mark.parametrize("damage", [
    b'{"type": "done", "name": "b"', b"\0\0\0", b"\xff\xfe", b"[]\n",
    b'{"type": "other"}\n', b'{"type": "done", "name": 3}\n'])
def test_a_damaged_line_costs_no_other(damage, written, tmp_path):
  with open(written.path, "ab") as file:
    file.write(damage)
  loaded = load(tmp_path)
  loaded.append(done("b", 5))
  for one in (loaded, load(tmp_path)):
    assert [row.image["height"] for _, row in one.done()] == [1, 5]


def test_any_cut_is_read(written, tmp_path):
  whole = written.path.read_bytes()
  header = whole.index(b"\n") + 1
  for end in range(header, len(whole)):
    written.path.write_bytes(whole[:end])
    load(tmp_path).append(journal.Named("c", 3, "/c.jpg"), done("c"))
    assert "c" in load(tmp_path).stamps
  written.path.write_bytes(whole[:header - 5])
  with pytest.raises(ConfigError, match="its first line is damaged"):
    load(tmp_path)


def test_what_has_no_name_is_not_done(written, tmp_path):
  written.append(done("c"))
  for one in (written, load(tmp_path)):
    assert one.stamps == {"a": [3, 4]}


def test_names_that_are_no_unicode(written, tmp_path):
  name = os.fsdecode(b"a\xff\nb")
  written.append(journal.Named(name, 7, f"/{name}.jpg"), done(name))
  assert name in load(tmp_path).stamps
  assert [row.name for _, row in written.done()] == ["a", name]
