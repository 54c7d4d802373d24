"""JSON that is not as its class says: the message names place and values."""

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from uvim import schema
from uvim.registry import ConfigError

_Number = Annotated[float, Meta(description="a number")]
_Point = Annotated[
    Annotated[list[_Number], Meta(min_length=2, max_length=2)],
    Meta(description="x and y, a list of two numbers")]


class Shape(msgspec.Struct, rename="camel"):
  name: schema.TEXT
  points: list[_Point] = []
  image_height: int = 0


def test_an_object_as_its_class_says():
  shape = schema.read_object(
      {"name": "a", "points": [[1, 2.5]], "imageHeight": 3, "more": 1},
      Shape, "shape")
  assert shape == Shape("a", [[1.0, 2.5]], 3)


@pytest.mark.parametrize(("entry", "expected"), [
    ({}, "shapes[7] has no 'name'."),
    ([], "shapes[7]: a list; allowed: an object."),
    ({"name": "a", "points": [[1, 2], [1, "2"]]},
     "shapes[7].points[1][1]: the text '2'; allowed: a number."),
    ({"name": "a", "points": [[1, 2, 3]]},
     "shapes[7].points[0]: a list; allowed: x and y, a list of two numbers."),
    ({"name": "\ud800"}, "shapes[7].name: the text"),
    ({"name": "a", "imageHeight": "\ud800"},
     "shapes[7]: one of its texts holds half a letter"),
])
def test_what_is_wrong_is_named(entry, expected):
  with pytest.raises(ConfigError) as caught:
    schema.read_object(entry, Shape, "shapes[7]")
  assert str(caught.value).startswith(expected)


def test_a_list_collects_all_problems():
  items, problems = schema.read_list(
      [{"name": "a"}, {}, {"name": 5}], Shape, "shapes")
  assert items == [Shape("a")]
  assert [problem.split(" ")[0] for problem in problems] == [
      "shapes[1]", "shapes[2].name:"]
