"""What the readers of depth share: they refuse depths that cannot be metres.

A wrong unit gives no error in training: every pixel falls into the last bin of
depth, or into the first. So the pass that checks the files also looks at the
values, prints their range, and stops where they cannot be metres.
"""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tools import passes
from tools.prepare import depth_files, reader
from tools.prepare.depth_files import Pair
from tools.prepare.depth_map import Range
from tools.prepare.writer import Found
from uvim.registry import ConfigError

# Medians of depth maps in metres: a hand before the camera, a wide square.
SMALLEST_MEDIAN = 0.01
LARGEST_MEDIAN = 50.0
_NUM_SHOWN = 5  # A list names so many maps and counts the others.


@dataclasses.dataclass(frozen=True)
class DepthReader(reader.FileReader):
  """A reader whose items are pairs of an image and a depth map.

  Attributes:
    max_depth: a larger depth counts as not measured; in metres. Infinity: no
      depth is too large, but a median above LARGEST_MEDIAN is refused.
    size_HW: height and width of every image; None: each its own.
  """
  max_depth: float = dataclasses.field(default=math.inf, kw_only=True)
  size_HW: tuple[int, int] | None = dataclasses.field(
      default=None, kw_only=True)

  # What to do about whole numbers that are not in the expected unit.
  wrong_scale: ClassVar[str]

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max_depth", type=float, default=math.inf, metavar="METRES",
        help="a larger depth counts as not measured (default: no limit, but "
        f"maps whose median is above {LARGEST_MEDIAN:g} m are refused)")
    super().add_options(parser)

  def check(self, found: Found) -> None:
    """Checks each pair, and prints and checks the depths of each split."""
    ranges = {}

    def find_problems(pair):
      try:
        ranges[pair] = depth_files.measure(pair, self.size_HW)
      except ConfigError as error:
        return [str(error)]
      return []

    passes.check_each(find_problems, found.all_items())
    for split, pairs in found.splits.items():
      by_name = {pair.name: ranges[pair] for pair in pairs}
      print(describe(split, by_name))
      self._check_ranges(split, by_name)

  def make_example(self, position: int, item: Pair) -> dict[str, Any]:
    return depth_files.make_example(position, item)

  def _check_ranges(self, split: str, ranges: Mapping[str, Range]) -> None:
    """Raises a ConfigError if the depths of a split cannot be metres."""
    medians = {name: range_.median for name, range_ in ranges.items()
               if range_.num_valid}
    if not medians:
      raise ConfigError(
          f"--depth: no pixel of the split {split!r} has a depth: all are "
          "0, negative, NaN, infinite, the largest number of the type, or "
          "above --max_depth.")
    outside = {name: median for name, median in medians.items()
               if not self._is_plausible(median)}
    if outside:
      name, median = next(iter(outside.items()))
      raise ConfigError(
          f"--depth: {len(outside):,} of {len(ranges):,} depth maps of the "
          f"split {split!r} cannot be in metres: the median of {name!r} is "
          f"{median:.4g} m; allowed: {SMALLEST_MEDIAN:g} to "
          f"{LARGEST_MEDIAN:g}. {self._remedy(ranges[name])}")
    if math.isinf(self.max_depth):
      _check_marks(split, ranges)

  def _is_plausible(self, median: float) -> bool:
    # Who gives a limit has said how far the scenes reach.
    has_limit = math.isfinite(self.max_depth)
    return SMALLEST_MEDIAN <= median and (
        has_limit or median <= LARGEST_MEDIAN)

  def _remedy(self, range_: Range) -> str:
    """What the user can do about maps in another unit."""
    if range_.is_whole:
      unit = self.wrong_scale
    else:
      unit = ("Floats must be metres: divide millimetres by 1000 (or save them "
              "as whole numbers, for --depth_scale 1000).")
    if range_.median < SMALLEST_MEDIAN:
      return unit
    return f"{unit} If the scenes are so large, give --max_depth METRES."


def check_limit(max_depth: float) -> None:
  """Raises a ConfigError unless it is a distance or infinite."""
  if not max_depth > 0:
    raise ConfigError(f"--max_depth: {max_depth}; allowed: above 0.")


def _check_marks(split: str, ranges: Mapping[str, Range]) -> None:
  """Refuses values such as 65.535 that stand for "not measured"."""
  marked = {name: range_ for name, range_ in ranges.items()
            if range_.mark is not None}
  if not marked:
    return
  name, range_ = next(iter(marked.items()))
  raise ConfigError(
      f"--depth: {len(marked):,} depth maps of the split {split!r} have a "
      f"largest value that repeats and is far from all others: {name!r} has "
      f"{range_.mark:.5g} m, and else at most {range_.largest_but_mark:.4g} m. "
      "If it means 'not measured', give --max_depth with a number between "
      f"the two; if it is a depth, --max_depth {math.ceil(range_.mark)}.")


def describe(split: str, ranges: Mapping[str, Range]) -> str:
  """The depths of a split, for people; one line, or one more.

  Args:
    split: its name.
    ranges: name of an image → range of its depth map.
  """
  measured = [range_ for range_ in ranges.values() if range_.num_valid]
  empty = [name for name, range_ in ranges.items() if not range_.num_valid]
  num_pixels = sum(range_.num_pixels for range_ in ranges.values())
  num_valid = sum(range_.num_valid for range_ in measured)
  num_top = sum(range_.num_top for range_ in ranges.values())
  parts = []
  if measured:
    smallest = min(range_.smallest for range_ in measured)
    largest = max(range_.largest for range_ in measured)
    median = statistics.median(range_.median for range_ in measured)
    parts.append(f"{smallest:.4g} to {largest:.4g} m, median {median:.4g} m")
  parts.append(f"{num_valid / num_pixels:.1%} of the pixels are valid")
  if num_top:
    parts.append(f"{num_top / num_pixels:.1%} have the largest number of "
                 "their type, which counts as not measured")
  lines = [f"Depth of {split}: {'; '.join(parts)}"]
  if empty:
    lines.append(f"Without a valid pixel: {_shortened(empty)}")
  return "\n".join(lines)


def _shortened(names: Sequence[str]) -> str:
  """The first names, and how many more there are."""
  shown = ", ".join(names[:_NUM_SHOWN])
  num_more = len(names) - _NUM_SHOWN
  return f"{shown} and {num_more:,} more" if num_more > 0 else shown
