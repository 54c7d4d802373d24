"""Lists of classes: their forms, and what is wrong with them."""

import pytest

from tools.prepare import class_list
from tools.prepare.class_list import ClassOptions
from uvim.registry import ConfigError


def classes_of(text, tmp_path, **options):
  path = tmp_path / "list.txt"
  path.write_text(text)
  return class_list.read(ClassOptions(path, **options))


@pytest.mark.parametrize("text", [
    "5 sky\n7 traffic light thing\n0 void\n",
    "# ids\n\n5: sky stuff\r\n7: traffic light, thing\r\n0: Unlabeled\r\n",
    '[{"id": 5, "name": "sky"}, {"id": 7, "name": "traffic light", '
    '"isthing": 1}, {"id": 0, "name": "ignore"}]',
    '{"categories": [{"id": 5, "name": "sky", "isthing": false}, {"id": 7, '
    '"name": "traffic light", "isthing": true}, {"id": 0, "name": "void"}]}',
])
def test_lists_that_say_the_same(tmp_path, text):
  path = tmp_path / ("list.json" if text[0] in "[{" else "list.txt")
  path.write_text(text)
  classes = class_list.read(ClassOptions(path))
  assert [tuple(category) for category in classes.categories] == [
      (5, "sky", False), (7, "traffic light", True)]
  assert classes.void == {0}


def test_names_alone_count_from_the_first_id(tmp_path):
  classes = classes_of("sky\nroad\nvoid", tmp_path, first_id=1)
  assert [category.id for category in classes.categories] == [1, 2]
  assert classes.void == {3}


def test_void_by_name(tmp_path):
  classes = classes_of("sky\nroad", tmp_path, void=["sky", "255"])
  assert [category.name for category in classes.categories] == ["road"]
  assert classes.void == {0, 255}


@pytest.mark.parametrize(("text", "options", "expected"), [
    ("", {}, "names no class"),
    ("void", {}, "categories is empty"),
    ("sky\nsky", {}, "the text 'sky' is also that of categories[0]"),
    ("5 sky\n5 road", {}, "classes[1].id: 5 is also that of classes[0]"),
    ("70000 sky", {}, "classes[0].id: 70000; allowed: a whole number"),
    ("sky\n3 road", {}, "line 1 ('sky') has no id, but other lines have"),
    ("0 300 0 sky", {}, "color of 'sky' is [0, 300, 0]; allowed: three"),
    ("1 1 1 sky\n1 1 1 road", {}, "'road' has the color [1, 1, 1] of an"),
    ("5 sky", {"first_id": 1}, "--first_id: 1; "),
    ("sky", {"things": ["sly"]}, "--things: Unknown class 'sly'. Did you mean"),
    ("sky", {"void": ["sly"]}, "--void: Unknown class 'sly'"),
    ("5 sky", {"void": ["5"]}, "in --classes. If this class is to be void"),
])
def test_wrong_lists_are_named(tmp_path, text, options, expected):
  with pytest.raises(ConfigError) as error_info:
    classes_of(text, tmp_path, **options)
  assert expected in str(error_info.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("3", "has no list of classes"),
    ('[{"name": 3}]', "classes[0].name: 3; allowed: a text"),
    ('[{"name": "a", "id": 1}, "b"]', "some classes have an id and some"),
    ('[{"name": "a", "color": [1, 2, 3]}, "b"]', "color of 'b' is None; "),
    ('[{"name": "a", "color": [1, true, 2]}]', "is [1, True, 2]; allowed"),
])
def test_wrong_json_is_named(tmp_path, text, expected):
  path = tmp_path / "list.json"
  path.write_text(text)
  with pytest.raises(ConfigError) as error_info:
    class_list.read(ClassOptions(path))
  assert expected in str(error_info.value)
