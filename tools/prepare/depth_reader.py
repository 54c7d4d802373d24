"""What the readers of depth share; see `depth_checks` for what they refuse."""

import argparse
import dataclasses
import math
from typing import Any, ClassVar

from tools import passes
from tools.prepare import depth_checks, depth_files, reader
from tools.prepare.depth_files import Pair
from tools.prepare.depth_map import Range
from tools.prepare.writer import Found
from uvim.registry import ConfigError


@dataclasses.dataclass(frozen=True)
class DepthReader(reader.FileReader):
  """A reader whose items are pairs of an image and a depth map.

  Attributes:
    max_depth: a larger depth counts as not measured; in metres. Infinity: no
      depth is too large, but depths that can hardly be metres are refused.
    size_HW: height and width of every image; None: each its own.
  """
  max_depth: float = dataclasses.field(default=math.inf, kw_only=True)
  size_HW: tuple[int, int] | None = dataclasses.field(
      default=None, kw_only=True)

  # What to do about numbers in another unit; "": say `--unit`.
  wrong_unit: ClassVar[str] = ""

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max_depth", type=float, default=math.inf, metavar="METRES",
        help="a larger depth counts as not measured (default: no limit, but "
        f"maps whose median is above {depth_checks.LARGEST_MEDIAN:g} m are "
        "refused)")
    super().add_options(parser)

  def check(self, found: Found) -> None:
    """Checks each pair, and prints and checks the depths of each split."""
    measured = {}

    def find_problems(pair):
      try:
        measured[pair] = depth_files.measure(pair, self.size_HW)
      except ConfigError as error:
        return [str(error)]
      return []

    passes.check_each(find_problems, found.all_items())
    for split, pairs in found.splits.items():
      by_name = {pair.name: measured[pair].depth for pair in pairs}
      image_sizes = {measured[pair].image_HW for pair in pairs}
      print(depth_checks.describe(split, by_name, image_sizes))
      depth_checks.check(
          split, by_name, max_depth=self.max_depth, remedy=self._remedy)

  def make_example(self, position: int, item: Pair) -> dict[str, Any]:
    return depth_files.make_example(position, item)

  def _remedy(self, range_: Range) -> str:
    """What the user can do about a map in another unit."""
    return self.wrong_unit or depth_checks.guess_unit(range_)


def check_limit(max_depth: float) -> None:
  """Raises a ConfigError unless it is a distance or infinite."""
  if not max_depth > 0:
    raise ConfigError(f"--max_depth: {max_depth}; allowed: above 0.")
