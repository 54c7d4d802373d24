"""Lists of classes: which id or color is which class, and which are things.

A list is a text or JSON. In a text each line is one class, and all lines have
one of these forms:

  sky                 the first line has the id --first_id, and so on
  7 road              with its id
  128 64 128 road     with its color, for masks in color

A line may end with the word `thing` or `stuff`. JSON is a list of names, or of
objects with "name" and optionally "id", "isthing" and "color"; or an object
with such a list as "categories".
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.passes import raise_problems
from uvim import categories as categories_lib
from uvim import files, registry, schema
from uvim.categories import Category
from uvim.registry import ConfigError

OPTION = "--classes"
# Names of pixels that belong to no class, in small letters.
VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore")
# A mask has 8 or 16 bits.
HIGHEST_ID = 2**16 - 1

_COLORED = re.compile(
    r"(\d{1,9})[\s,]+(\d{1,9})[\s,]+(\d{1,9})[\s,:]+(\S.*)")
_NUMBERED = re.compile(r"(\d{1,9})[\s,:]+(\S.*)")
_KIND_AT_END = re.compile(r"(.*[^\s,])[\s,]+(thing|stuff)")

_ClassId = Annotated[int, Meta(
    ge=0, le=HIGHEST_ID,
    description=f"a whole number from 0 to {HIGHEST_ID:,}")]
_ThingFlag = Annotated[schema.FLAG | None, Meta(
    description="0, 1, false or true, not as a text")]


class ClassEntry(msgspec.Struct):
  """One class of a list, as it stands there."""
  name: schema.TEXT
  id: Annotated[_ClassId | None, Meta(
      description=f"a whole number from 0 to {HIGHEST_ID:,}")] = None
  isthing: _ThingFlag = None
  color: Any = None


@dataclasses.dataclass(frozen=True)
class ClassOptions:
  """What the command line says about the classes.

  Attributes:
    path: the list.
    things: names of classes that are things, besides those the list marks.
    void: ids without a class, or names of classes to take as such.
    first_id: the id of the first class, for a list without ids; None: not
      given.
    usual_first_id: takes its place if it is not given.
  """
  path: pathlib.Path
  things: Sequence[str] = ()
  void: Sequence[str] = ()
  first_id: int | None = None
  usual_first_id: int = 0


@dataclasses.dataclass(frozen=True)
class ClassList:
  """The classes of masks.

  Attributes:
    categories: in the order of the list; the id of a category is that in the
      masks.
    void: ids of pixels without a class.
    id_of_color: R + 256 G + 65536 B → id, classes and void; empty if the list
      has no colors.
    data_set: whose own classes these are; "": the user has listed them.
  """
  categories: tuple[Category, ...]
  void: frozenset[int] = frozenset()
  id_of_color: Mapping[int, int] = dataclasses.field(default_factory=dict)
  data_set: str = ""

  @property
  def name(self) -> str:
    """What messages call the list."""
    return self.data_set or OPTION

  def remedy(self, of_own_list: str) -> str:
    """What to do about masks that do not fit the classes.

    Args:
      of_own_list: the remedy if the user has listed the classes. Nobody can
        change those of a data set.
    """
    if self.data_set:
      return f"Take the masks as {self.data_set} has them."
    return of_own_list

  def names_of(self) -> dict[int, str]:
    """Id → name of the class."""
    return {category.id: category.name for category in self.categories}

  def thing_ids(self) -> list[int]:
    return [category.id for category in self.categories if category.isthing]


def split_names(texts: Sequence[str] | None) -> list[str]:
  """["a,b", "c"] → ["a", "b", "c"]: the values of an option of names."""
  names = []
  for text in texts or ():
    names += [name.strip() for name in text.split(",")]
  return [name for name in names if name]


def read(options: ClassOptions) -> ClassList:
  """Reads and checks a list of classes.

  Raises:
    ConfigError: it cannot be read, has lines of two forms, repeats a name or
      an id, or --things or --void do not fit it.
  """
  if options.path.suffix.lower() == ".json":
    entries = _read_json(options.path)
  else:
    entries = _read_text(options.path)
  if not entries:
    raise ConfigError(f"{OPTION}: {str(options.path)!r} names no class.")
  return from_entries(entries, options)


def _read_json(path: pathlib.Path) -> list[ClassEntry]:
  where = f"{OPTION}: {str(path)!r}"
  content = files.load_json(path, OPTION)
  if isinstance(content, dict):
    content = content.get("categories")
  if not isinstance(content, list):
    raise ConfigError(f"{where} has no list of classes; allowed: a list, or an "
                      'object that has it as "categories".')
  items = []
  for item in content:
    items.append({"name": item} if isinstance(item, str) else item)
  entries, problems = schema.read_list(items, ClassEntry, "classes")
  raise_problems(problems, where)
  return entries


def _read_text(path: pathlib.Path) -> list[ClassEntry]:
  text = files.load_text(path, OPTION)
  lines = {}
  for number, line in enumerate(text.splitlines(), start=1):
    line = line.strip()
    if line and not line.startswith("#"):
      lines[number] = line
  form = _form_of(lines, f"{OPTION}: {str(path)!r}")
  items = []
  for line in lines.values():
    items.append(_parse_line(line, form))
  entries, problems = schema.read_list(items, ClassEntry, "classes")
  raise_problems(problems, f"{OPTION}: {str(path)!r}")
  return entries


def _form_of(lines: Mapping[int, str], where: str) -> re.Pattern | None:
  """The form of all lines; None: names alone."""
  for form in (_COLORED, _NUMBERED):
    others = [number for number, line in lines.items()
              if not form.fullmatch(line)]
    if not others:
      return form
  # `others` are the lines without an id.
  if len(others) == len(lines):
    return None
  number = others[0]
  raise ConfigError(
      f"{where}: line {number} ({lines[number]!r}) has no id, but other lines "
      "have; allowed: all lines as 'name', 'id name' or 'R G B name'.")


def _parse_line(line: str, form: re.Pattern | None) -> dict[str, Any]:
  """A line as an object of JSON would have it."""
  item = {}
  name = line
  if form is not None:
    *numbers, name = form.fullmatch(line).groups()
    values = [int(number) for number in numbers]
    if form is _COLORED:
      item["color"] = values
    else:
      item["id"] = values[0]
  with_kind = _KIND_AT_END.fullmatch(name)
  if with_kind:
    name, kind = with_kind.groups()
    item["isthing"] = kind == "thing"
  item["name"] = name
  return item


def from_entries(entries: Sequence[ClassEntry], options: ClassOptions
                 ) -> ClassList:
  """The classes that a list and the command line describe together.

  Raises:
    ConfigError: see `read`.
  """
  has_ids = any(entry.id is not None for entry in entries)
  _number(entries, options)
  void_ids, void_names = _split_void(options.void)
  _check_void_ids(entries, void_ids, has_ids)
  _check_names(void_names, entries, "--void")
  classes = []
  void = set(void_ids)
  for entry in entries:
    if entry.name in void_names or _means_void(entry.name):
      void.add(entry.id)
    else:
      classes.append(entry)
  _check_names(options.things, classes, "--things")
  records = []
  for entry in classes:
    is_thing = bool(entry.isthing) or entry.name in options.things
    records.append(
        {"id": entry.id, "name": entry.name, "isthing": is_thing})
  where = f"{OPTION}: {str(options.path)!r}"
  ids = [entry.id for entry in entries]
  raise_problems(schema.repeats(ids, "classes", ".id"), where)
  categories = categories_lib.from_records(records, where)
  id_of_color = _read_colors(entries, where)
  return ClassList(categories, frozenset(void), id_of_color)


def _means_void(name: str) -> bool:
  return name.lower() in VOID_NAMES


def _number(entries: Sequence[ClassEntry], options: ClassOptions) -> None:
  """Gives ids to the entries of a list that has none."""
  with_id = [entry for entry in entries if entry.id is not None]
  where = f"{OPTION}: {str(options.path)!r}"
  if not with_id:
    first_id = options.first_id
    if first_id is None:
      first_id = options.usual_first_id
    for number, entry in enumerate(entries, start=first_id):
      entry.id = number
  elif len(with_id) < len(entries):
    raise ConfigError(f"{where}: some classes have an id and some have none.")
  elif options.first_id is not None:
    raise ConfigError(f"--first_id: {options.first_id}; {options.path} has ids "
                      "of its own. Leave the option out.")


def _split_void(texts: Sequence[str]) -> tuple[list[int], list[str]]:
  """The ids and the names among the values of --void."""
  ids = []
  names = []
  for text in texts:
    if text.isascii() and text.isdecimal():
      ids.append(int(text))
    else:
      names.append(text)
  return ids, names


def _check_void_ids(entries: Sequence[ClassEntry], void_ids: Sequence[int],
                    has_ids: bool) -> None:
  """Refuses --void for the id of a class: most often, a list is off by one."""
  off_by_one = ("If the first class has the id 1 in the masks, add "
                "--first_id 1; if this class")
  hint = "If this class" if has_ids else off_by_one
  for entry in entries:
    if entry.id in void_ids and not _means_void(entry.name):
      raise ConfigError(
          f"--void: {entry.id} is the class {entry.name!r} in {OPTION}. "
          f"{hint} is to be void, write --void {entry.name!r}.")


def _check_names(names: Sequence[str], entries: Sequence[ClassEntry],
                 option: str) -> None:
  known = [entry.name for entry in entries]
  for name in names:
    if name not in known:
      raise ConfigError(f"{option}: {registry.unknown('class', name, known)}")


def _read_colors(entries: Sequence[ClassEntry], where: str) -> dict[int, int]:
  """The id of each color; see `ClassList.id_of_color`.

  Raises:
    ConfigError: some classes have no color, or that of another.
  """
  id_of_color = {}
  if all(entry.color is None for entry in entries):
    return id_of_color
  for entry in entries:
    if not _is_color(entry.color):
      raise ConfigError(
          f"{where}: the color of {entry.name!r} is {entry.color}; allowed: "
          "three whole numbers from 0 to 255, for each class or for none.")
    red, green, blue = entry.color
    packed = red + 256 * green + 65536 * blue
    if packed in id_of_color:
      raise ConfigError(f"{where}: {entry.name!r} has the color {entry.color} "
                        "of an earlier class.")
    id_of_color[packed] = entry.id
  return id_of_color


def _is_color(value: Any) -> bool:
  if not isinstance(value, list) or len(value) != 3:
    return False
  return all(type(channel) is int and 0 <= channel <= 255 for channel in value)
