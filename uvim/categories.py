"""Panoptic categories: COCO's 133, and lists kept beside a data set.

TFDS labels count 0, 1, 2, … in the order of the list. COCO's own ids have
gaps: 1..90 are things, 92..200 are stuff. `categories[label].id` is the id
that COCO's files and its metric use.

Layer 0: no imports but the standard library, msgspec, the registry, files and
schema. Only what reads a list needs msgspec, and so imports schema itself.
"""

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from uvim import files
from uvim.registry import ConfigError

FILE_NAME = "categories.json"
# Its name in messages, and its key in COCO's annotations.
_LIST = "categories"


class Category(NamedTuple):
  """One row of a panoptic category list."""
  id: int
  name: str
  isthing: bool


# "id name" in the order of the TFDS labels (COCO panoptic challenge, 2017).
_THINGS = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck,
9 boat, 10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter,
15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant,
23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie,
33 suitcase, 34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite,
39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife,
50 spoon, 51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli,
57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch,
64 potted plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop,
74 mouse, 75 remote, 76 keyboard, 77 cell phone, 78 microwave, 79 oven,
80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors,
88 teddy bear, 89 hair drier, 90 toothbrush
"""
_STUFF = """
92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain,
112 door-stuff, 118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house,
130 light, 133 mirror-stuff, 138 net, 141 pillow, 144 platform,
145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand,
155 sea, 156 shelf, 159 snow, 161 stairs, 166 tent, 168 towel, 171 wall-brick,
175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other,
180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged,
186 ceiling-merged, 187 sky-other-merged, 188 cabinet-merged,
189 table-merged, 190 floor-other-merged, 191 pavement-merged,
192 mountain-merged, 193 grass-merged, 194 dirt-merged, 195 paper-merged,
196 food-other-merged, 197 building-other-merged, 198 rock-merged,
199 wall-other-merged, 200 rug-merged
"""


def coco_panoptic() -> tuple[Category, ...]:
  """COCO's 80 thing and 53 stuff categories in the order of TFDS labels."""
  things = _parse_list(_THINGS, isthing=True)
  stuff = _parse_list(_STUFF, isthing=False)
  return tuple(things + stuff)


def _parse_list(text: str, *, isthing: bool) -> list[Category]:
  """The rows of a text like "1 person, 2 bicycle" with any line breaks."""
  one_line = " ".join(text.split())
  categories = []
  for item in one_line.split(", "):
    # Only the first space ends the id: names hold spaces too.
    number, name = item.split(" ", 1)
    categories.append(Category(int(number), name, isthing))
  return categories


def _entry_type() -> type:
  """The class of an entry of COCO's list of categories, for `schema`."""
  from msgspec import Meta, defstruct

  from uvim import schema
  # TFDS keeps names in a text, one a line, and strips them.
  name = Annotated[str, Meta(
      pattern=r"\A(?!\s)[^\x00-\x1f\x7f\ud800-\udfff]+(?<!\s)\Z",
      description="a text of one line that neither begins nor ends with a "
      "space")]
  fields = [("id", schema.ID), ("name", name), ("isthing", schema.FLAG)]
  return defstruct("Entry", fields, frozen=True)


def read_records(records: Sequence[Any]
                 ) -> tuple[tuple[Category, ...], list[str]]:
  """Categories from COCO's list of {"id", "name", "isthing"} dicts.

  Args:
    records: the dicts, as `json` gives them; further keys are ignored.

  Returns:
    (the categories, the problems as sentences): a key is absent or its value
    not allowed, an id or a name repeats, or the list is empty.
  """
  from uvim import schema
  entries, problems = schema.read_list(records, _entry_type(), _LIST)
  if problems:
    return (), problems
  if not entries:
    return (), [f"{_LIST} is empty; at least one category is needed."]
  ids = [entry.id for entry in entries]
  names = [entry.name for entry in entries]
  problems += schema.repeats(ids, _LIST, ".id")
  problems += schema.repeats(names, _LIST, ".name")
  categories = tuple(Category(entry.id, entry.name, bool(entry.isthing))
                     for entry in entries)
  return categories, problems


def from_records(records: Any, where: str) -> tuple[Category, ...]:
  """`read_records`, but a problem is an error.

  Args:
    records: see `read_records`.
    where: the file they came from, for the message.

  Raises:
    ConfigError: names the first problem and counts the others.
  """
  from uvim import schema
  if not isinstance(records, list):
    raise ConfigError(
        f"{where}: {_LIST} is {schema.shown(records)}; allowed: a list of "
        'objects with "id", "name" and "isthing".')
  categories, problems = read_records(records)
  if problems:
    num_more = len(problems) - 1
    more = f" … and {num_more:,} more." if num_more else ""
    raise ConfigError(f"{where}: {problems[0]}{more}")
  return categories


def to_records(categories: Sequence[Category]) -> list[dict[str, Any]]:
  """COCO's list of {"id", "name", "isthing"} dicts."""
  return [{"id": category.id, "name": category.name,
           "isthing": int(category.isthing)} for category in categories]


def load(path: pathlib.Path, where: str = "categories"
         ) -> tuple[Category, ...]:
  """The categories of a JSON file.

  Args:
    path: a list as `save` writes it, or an object that has it as "categories",
      such as COCO's annotations.
    where: starts the message; the option or field that names the file.

  Raises:
    ConfigError: it cannot be read, is not JSON, or see `read_records`.
  """
  content = files.load_json(path, where)
  where = f"{where}: {str(path)!r}"
  if isinstance(content, dict):
    if _LIST not in content:
      raise ConfigError(f"{where}: has no {_LIST!r}.")
    content = content[_LIST]
  return from_records(content, where)


def save(path: pathlib.Path, categories: Sequence[Category]) -> None:
  """Writes the list in COCO's own schema, so other tools read it too."""
  files.write_json(path, to_records(categories), indent=1)
