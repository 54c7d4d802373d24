"""Files of predictions: a list of any length needs no memory of its own."""

import json
import weakref

import pytest

from uvim.registry import ConfigError
from uvim.tasks import output_files


class Row(dict):
  """A dict of which a test can tell whether it still exists."""


def test_rows_are_forgotten_once_they_are_written(tmp_path):
  rows = []
  num_alive = []

  def make_rows():
    for number in range(20):
      row = Row(id=number)
      rows.append(weakref.ref(row))
      yield row
      num_alive.append(sum(row() is not None for row in rows))

  output_files.write_json(tmp_path / "a.json", {"rows": make_rows()})
  # The generator and the writer each hold at most one.
  assert max(num_alive) <= 2
  content = json.loads((tmp_path / "a.json").read_text())
  assert content["rows"] == [{"id": number} for number in range(20)]


@pytest.mark.parametrize("content", [
    {}, {"a": []}, {"a": [1, [2, 3]], "b": {"c": [4, 5]}, "d": None},
    {"ä\udcff\n": ["\udcff", "\n"]}])
def test_what_is_written_comes_back(content, tmp_path):
  output_files.write_json(tmp_path / "list.json", content)
  text = (tmp_path / "list.json").read_text()
  assert json.loads(text) == content
  for key, value in content.items():
    if isinstance(value, list):
      content = {**content, key: iter(value)}
  output_files.write_json(tmp_path / "iterator.json", content)
  assert (tmp_path / "iterator.json").read_text() == text


def test_a_list_has_an_item_a_line(tmp_path):
  output_files.write_json(tmp_path / "a.json", {"a": [[1, 2], [3]], "b": 4})
  assert (tmp_path / "a.json").read_text() == (
      '{"a": [\n[1, 2],\n[3]\n],\n"b": 4}\n')


def test_a_list_that_breaks_off_leaves_the_old_file(tmp_path):
  def broken():
    yield 1
    raise ConfigError("the disk is gone")

  output_files.write_json(tmp_path / "a.json", {"a": [0]})
  with pytest.raises(ConfigError, match="gone"):
    output_files.write_json(tmp_path / "a.json", {"a": broken()})
  assert json.loads((tmp_path / "a.json").read_text()) == {"a": [0]}
  assert len(list(tmp_path.iterdir())) == 1
