"""Readers of annotation files that have names of labels and no list of them."""

import argparse
import dataclasses
from collections.abc import Collection, Sequence

from tools.prepare import class_list, polygons_reader
from tools.prepare.polygons_regions import check_names
from uvim import categories as categories_lib
from uvim.categories import Category
from uvim.registry import ConfigError


@dataclasses.dataclass
class LabelsReader(polygons_reader.PolygonsReader):
  """A reader whose categories are the labels that occur; see `choose`.

  Attributes:
    things: labels that are things.
    stuff: labels that are stuff.
  """
  things: Sequence[str] = dataclasses.field(default=(), kw_only=True)
  stuff: Sequence[str] = dataclasses.field(default=(), kw_only=True)

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--things", nargs="+", metavar="NAME", default=(),
                        help="labels that are things (default: all but those "
                        "of --stuff)")
    parser.add_argument("--stuff", nargs="+", metavar="NAME", default=(),
                        help="labels that are stuff; with --things: the whole "
                        "list of labels, in this order")
    super().add_options(parser)

  def choose_categories(self, names: Collection[str],
                        existing: Sequence[Category] | None
                        ) -> tuple[Category, ...]:
    things = class_list.split_names(self.things)
    stuff = class_list.split_names(self.stuff)
    return choose(names, things, stuff, existing)


def choose(names: Collection[str], things: Sequence[str], stuff: Sequence[str],
           existing: Sequence[Category] | None) -> tuple[Category, ...]:
  """The categories of files that have names of labels and no list.

  Their order is that of the data set that is there. For a new one: if `things`
  and `stuff` are both given, they are the whole list, in that order. Else the
  names are sorted; those that the one list leaves out are of the other kind,
  and without any list all are things. Ids count 1, 2, 3, …

  Args:
    names: the labels that occur.
    things: from --things.
    stuff: from --stuff.
    existing: of the data set that is there, or None.

  Raises:
    ConfigError: a name is in neither list, in both, or does not occur; or it
      is no name that `categories.json` may have.
  """
  both = [name for name in things if name in stuff]
  if both:
    raise ConfigError(f"--stuff: {both[0]!r} is in --things too.")
  if existing is not None:
    _check_fits(names, things, stuff, existing)
    return tuple(existing)
  if things and stuff:
    ordered = [*things, *stuff]
    check_names(sorted(names), ordered, "label", "--things and --stuff")
  else:
    ordered = sorted(names)
    check_names(things, ordered, "--things", "the labels of the files")
    check_names(stuff, ordered, "--stuff", "the labels of the files")
  records = []
  for number, name in enumerate(ordered, start=1):
    isthing = name in things if things else name not in stuff
    records.append({"id": number, "name": name, "isthing": isthing})
  # Names may not end with a space, for example.
  return categories_lib.from_records(records, "The labels")


def _check_fits(names: Collection[str], things: Sequence[str],
                stuff: Sequence[str], existing: Sequence[Category]) -> None:
  """Raises a ConfigError unless the data set that is there fits."""
  kind_of = {category.name: category.isthing for category in existing}
  for option, listed in (("label", sorted(names)), ("--things", things),
                         ("--stuff", stuff)):
    check_names(listed, list(kind_of), option,
                "those of the data set that is there")
  for name in things:
    if not kind_of[name]:
      raise ConfigError(f"--things: {name!r} is stuff in the data set that is "
                        "there.")
  for name in stuff:
    if kind_of[name]:
      raise ConfigError(f"--stuff: {name!r} is a thing in the data set that is "
                        "there.")
