"""What newcomers do wrong with masks: one line for each kind of mistake.

A mistake is seen in one file, but most often all files have it. So mistakes
with the same remedy become one line, which names the first file and counts the
others.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tools.prepare.class_list import ClassList


class Mistake(Exception):
  """What is wrong with one file, and what to do about it.

  Attributes:
    path: the file.
    what: is wrong; without the name of the file.
    remedy: a sentence.
  """

  def __init__(self, path: pathlib.Path, what: str, remedy: str):
    super().__init__(f"{path}: {what}. {remedy}")
    self.path = path
    self.what = what
    self.remedy = remedy


@dataclasses.dataclass(frozen=True)
class Seen:
  """What a look at one mask found.

  Attributes:
    path: the mask.
    ids: that it has, rising.
    bits: 8 or 16 for each pixel.
    palette: id → color, of a palette PNG whose index is the id; else empty.
  """
  path: pathlib.Path
  ids: Sequence[int]
  bits: int = 8
  palette: Mapping[int, tuple[int, ...]] = dataclasses.field(
      default_factory=dict)


def as_lines(mistakes: Iterable[Mistake]) -> list[str]:
  """One line for all mistakes of one remedy."""
  groups = collections.defaultdict(list)
  for mistake in mistakes:
    groups[mistake.remedy].append(mistake)
  lines = []
  for remedy, group in groups.items():
    first = group[0]
    # Of one file, several mistakes may be known.
    num_more = len({mistake.path for mistake in group}) - 1
    more = f" (and {num_more:,} more files)" if num_more else ""
    lines.append(f"{first.path}{more}: {first.what}. {remedy}")
  return lines


def in_palettes(seen: Sequence[Seen], classes: ClassList) -> list[Mistake]:
  """Palettes that differ, as those that a program makes for each image."""
  remedy = classes.remedy(
      "Write 'R G B name' lines in --classes, so that colors count; if the "
      "index is the class, save the masks in gray.")
  first_of = {}
  mistakes = []
  for mask in seen:
    for number, color in mask.palette.items():
      first_color, first_path = first_of.setdefault(
          number, (color, mask.path))
      if color != first_color:
        mistakes.append(Mistake(
            mask.path, f"its palette gives {number} the color {color}, that "
            f"of {first_path.name} the color {first_color}", remedy))
        break
  return mistakes


def in_ids(seen: Sequence[Seen], classes: ClassList) -> list[Mistake]:
  """Ids that no class has, with the most likely reason."""
  known = {*classes.names_of(), *classes.void}
  foreign_of = []
  all_foreign = set()
  for mask in seen:
    foreign = [number for number in mask.ids if number not in known]
    if foreign:
      all_foreign.update(foreign)
      foreign_of.append((mask, foreign))
  return [_explain(mask, foreign, all_foreign, classes)
          for mask, foreign in foreign_of]


def _explain(mask: Seen, foreign: Sequence[int], all_foreign: set[int],
             classes: ClassList) -> Mistake:
  """The mistake behind the ids of a mask that no class has.

  Args:
    mask: the mask.
    foreign: its ids that no class has, at least one.
    all_foreign: those of all masks.
    classes: the classes.
  """
  ids = sorted(classes.names_of())
  has = (f"has {_shown(foreign)}, but the ids of {classes.name} are "
         f"{_span(ids)}")
  if mask.bits == 16 and max(foreign) > 255:
    return _explain_16_bits(mask, foreign, classes)
  off_by_one = _if_off_by_one(all_foreign - {255}, ids)
  if mask.palette and foreign != [255] and not off_by_one:
    remedy = classes.remedy(
        "The index is the class there. If colors count, write 'R G B name' "
        "lines in --classes.")
    return Mistake(mask.path, f"is a palette PNG that {has}", remedy)
  remedy = classes.remedy(_complete(foreign, all_foreign, ids))
  return Mistake(mask.path, has, remedy)


def _complete(foreign: Sequence[int], all_foreign: set[int],
              ids: Sequence[int]) -> str:
  """How to give a list the classes that it lacks; see `_explain`."""
  if foreign == [255]:
    return ("If 255 is void, add --void 255; if it is a class, write '255 "
            "name' in --classes.")
  # Without 255, which is void in most data sets.
  others = all_foreign - {255}
  off_by_one = _if_off_by_one(others, ids)
  if off_by_one:
    return off_by_one
  void = f"add --void {_arguments(others)}."
  if min(others) > ids[-1]:
    return f"The list is too short: name all classes in --classes, or {void}"
  return f"Name all classes in --classes, or {void}"


def _if_off_by_one(foreign: set[int], ids: Sequence[int]) -> str:
  """The remedy if ids and list may begin with another number; else ""."""
  after_last = ids[-1] + 1
  if foreign == {after_last} and ids[0] == 0:
    return ("If 0 is void and the first class has the id 1, add --first_id 1 "
            f"--void 0; else {after_last} lacks a name in --classes.")
  if foreign == {0} and ids[0] == 1:
    return ("If 0 is void, add --void 0; if it is the first class, begin with "
            "0 in --classes.")
  return ""


def _explain_16_bits(mask: Seen, foreign: Sequence[int],
                     classes: ClassList) -> Mistake:
  """The mistake behind ids that 8 bits cannot hold."""
  last_id = max(classes.names_of())
  what = (f"has 16 bits and values up to {max(foreign)}, but the ids of "
          f"{classes.name} end with {last_id}")
  if all(number % 257 == 0 for number in mask.ids):
    return Mistake(mask.path, what,
                   "All are multiples of 257: a program stretched 8 bits to "
                   "16. Save the ids themselves.")
  return Mistake(mask.path, what,
                 "Ids of instances or segments, or depth, are no classes: "
                 "give masks of classes.")


def _shown(ids: Sequence[int]) -> str:
  """'class 5', or 'classes 5, 6, 7, …'."""
  shown = [str(number) for number in ids[:3]]
  if len(ids) > len(shown):
    shown.append("…")
  noun = "class" if len(ids) == 1 else "classes"
  return f"{noun} {', '.join(shown)}"


def _span(ids: Sequence[int]) -> str:
  """'0 to 10', or '3' for one class."""
  first = ids[0]
  last = ids[-1]
  if first == last:
    return str(first)
  has_gaps = last - first > len(ids) - 1
  return f"{first} to {last}{' with gaps' if has_gaps else ''}"


def _arguments(ids: Iterable[int]) -> str:
  """The first ids, as an option takes them."""
  ids = sorted(ids)
  more = " …" if len(ids) > 5 else ""
  return " ".join(str(number) for number in ids[:5]) + more
