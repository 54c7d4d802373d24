"""Lists of panoptic categories, as files and as JSON."""

import json

import pytest

from uvim import categories
from uvim.registry import ConfigError

CHAIR = {"id": 5, "name": "chair", "isthing": 1}
WALL = {"id": 9, "name": "wall", "isthing": False}
ROWS = (categories.Category(5, "chair", True),
        categories.Category(9, "wall", False))


def failure(content, tmp_path):
  """The message about a file with this content."""
  path = tmp_path / "list.json"
  path.write_text(json.dumps(content))
  with pytest.raises(ConfigError) as caught:
    categories.load(path, "--categories")
  message = str(caught.value)
  assert message.startswith(f"--categories: {str(path)!r}")
  assert "\n" not in message
  return message


def test_a_list_and_the_annotations_are_read(tmp_path):
  path = tmp_path / "list.json"
  categories.save(path, ROWS)
  assert categories.load(path) == ROWS
  annotations = {"images": [], "annotations": [], "categories": [CHAIR, WALL]}
  # As Windows' editors save it.
  path.write_text(json.dumps(annotations), encoding="utf-8-sig")
  assert categories.load(path) == ROWS


@pytest.mark.parametrize("key, value, expected", [
    ("id", "9", "[1].id: the text '9'; allowed: a whole number from 0 to"),
    ("id", True, "[1].id: true; allowed: a whole number"),
    ("id", 1.5, "[1].id: 1.5; allowed: a whole number"),
    ("id", 2**63, "[1].id: 9223372036854775808; allowed: a whole number"),
    ("id", -1, "[1].id: -1; allowed: a whole number"),
    ("id", None, "[1].id: null; allowed"),
    ("id", [[]], "[1].id: a list; allowed"),
    ("id", 5, "[1].id: 5 is also that of categories[0]"),
    ("name", "chair", "[1].name: the text 'chair' is also that of"),
    ("name", "", "[1].name: the text ''; allowed: a text of one line"),
    ("name", "wall ", "[1].name: the text 'wall '; allowed: a text"),
    ("name", "a\nb", r"[1].name: the text 'a\nb'; allowed: a text"),
    ("name", "\ud800", r"[1].name: the text '\ud800'; allowed: a text"),
    ("name", 3, "[1].name: 3; allowed: a text"),
    ("isthing", "0", "[1].isthing: the text '0'; allowed: 0, 1, false or true"),
    ("isthing", 2, "[1].isthing: 2; allowed: 0, 1"),
    ("isthing", 1.0, "[1].isthing: 1.0; allowed: 0, 1"),
    ("isthing", None, "[1].isthing: null; allowed: 0, 1"),
])
def test_a_wrong_value_is_named(tmp_path, key, value, expected):
  message = failure([CHAIR, {**WALL, key: value}], tmp_path)
  assert f": categories{expected}" in message


@pytest.mark.parametrize("content, expected", [
    ([], "categories is empty"),
    ({"categories": []}, "categories is empty"),
    ({"images": []}, "has no 'categories'"),
    ({"categories": None}, "categories is null; allowed: a list"),
    ({"categories": {"1": "chair"}}, "categories is an object; allowed"),
    ("chair", "categories is the text 'chair'; allowed: a list"),
    ([CHAIR, "wall"], "categories[1]: the text 'wall'; allowed: an object"),
    ([CHAIR, {"id": 9, "name": "wall"}], "categories[1] has no 'isthing'"),
    ([{}, {}, {}], "categories[0] has no 'id'. … and 2 more."),
])
def test_what_is_no_list_of_categories(tmp_path, content, expected):
  assert expected in failure(content, tmp_path)


def test_a_file_that_is_absent_or_no_json(tmp_path):
  with pytest.raises(ConfigError, match="--categories: .*no such file"):
    categories.load(tmp_path / "none.json", "--categories")
  (tmp_path / "cut.json").write_text('[{"id": 1,')
  with pytest.raises(ConfigError, match="cut.json' is not JSON"):
    categories.load(tmp_path / "cut.json", "--categories")
