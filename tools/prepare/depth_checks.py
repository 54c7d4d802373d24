"""What the depths of a split are like, and whether they can be metres.

A wrong unit gives no error in training: every pixel falls into the last bin of
depth, or into the first. So the pass that checks the files also looks at the
values, prints their range, and stops where they cannot be metres.
"""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

from tools.prepare import depth_shape
from tools.prepare.depth_map import Range
from tools.prepare.depth_unit import NAMES
from uvim.registry import ConfigError

# Medians of depth maps in metres: a hand before the camera, a wide square.
SMALLEST_MEDIAN = 0.01
LARGEST_MEDIAN = 50.0
# Usual medians; only for a guess at the unit.
_USUAL_MEDIANS = (0.3, 12.0)
_LARGEST_8_BITS = 255
_LARGEST_16_BITS = 65534  # 65,535 counts as not measured.
# A map that is stretched to all 16 bits has few pixels of the largest number.
_STRETCHED_SHARE = 0.9
_MAX_SHARE_OF_TOP = 0.01
_IF_METRES = "If these are distances all the same, give --max_depth METRES."
_NUM_SHOWN = 5  # A list names so many maps and counts the others.

# The depth map of each image, by the name of the image.
Ranges = Mapping[str, Range]
# Height and width.
Size = tuple[int, ...]


def describe(split: str, ranges: Ranges, image_sizes: Collection[Size]) -> str:
  """The depths of a split, for people; one line, or up to two more.

  Args:
    split: its name.
    ranges: name of an image → range of its depth map.
    image_sizes: height and width of the images, each once.
  """
  measured = []
  empty = []
  for name, range_ in ranges.items():
    if range_.num_valid:
      measured.append(range_)
    else:
      empty.append(name)
  sizes = {range_.size_HW for range_ in ranges.values()}
  parts = [f"{len(ranges):,} of {_readable(sizes)} pixels"]
  if measured:
    parts.append(_metres(measured))
  parts.append(_without_measurement(ranges.values()))
  lines = [f"Depth maps of {split}: {'; '.join(parts)}"]
  if sizes != set(image_sizes):
    lines.append(f"Their images have {_readable(image_sizes)} pixels; training "
                 "resizes both")
  if empty:
    lines.append(f"Without a valid pixel: {_shortened(empty)}")
  return "\n".join(lines)


def _metres(measured: Collection[Range]) -> str:
  """The depths of maps that have any."""
  smallest = min(range_.smallest for range_ in measured)
  largest = max(range_.largest for range_ in measured)
  median = statistics.median(range_.median for range_ in measured)
  return f"{smallest:.4g} to {largest:.4g} m, median {median:.4g} m"


def _without_measurement(ranges: Collection[Range]) -> str:
  """How many pixels of the maps hold no depth."""
  num_pixels = sum(range_.num_pixels for range_ in ranges)
  num_valid = sum(range_.num_valid for range_ in ranges)
  num_top = sum(range_.num_top for range_ in ranges)
  text = f"{1 - num_valid / num_pixels:.1%} of the pixels without measurement"
  if num_top:
    text += (f" ({num_top / num_pixels:.1%} hold the largest number of their "
             "type)")
  return text


def _readable(sizes: Collection[Size]) -> str:
  """Such as '480x640', or '3 sizes, 240x320 to 480x640'."""
  texts = []
  for size in sorted(sizes, key=math.prod):
    texts.append("x".join(map(str, size)))
  if len(texts) == 1:
    return texts[0]
  return f"{len(texts)} sizes, {texts[0]} to {texts[-1]}"


def _shortened(names: Sequence[str]) -> str:
  """The first names, and how many more there are."""
  shown = ", ".join(names[:_NUM_SHOWN])
  num_more = len(names) - _NUM_SHOWN
  return f"{shown} and {num_more:,} more" if num_more > 0 else shown


# ── What cannot be metres ───────────────────────────────────────────────────


def check(split: str, ranges: Ranges, *, max_depth: float,
          remedy: Callable[[Range], str]) -> None:
  """Raises a ConfigError if the depths of a split cannot be metres.

  Args:
    split: its name.
    ranges: name of an image → range of its depth map.
    max_depth: of the user, in metres. Who gives one has said that these are
      metres and how far the scenes reach; infinity: nobody has.
    remedy: what to do about a map in another unit.
  """
  measured = {name: range_ for name, range_ in ranges.items()
              if range_.num_valid}
  if not measured:
    raise ConfigError(
        f"--depth: no pixel of the split {split!r} has a depth: all are "
        "0, negative, NaN, infinite, the largest number of the type, or "
        "above --max_depth.")
  has_limit = math.isfinite(max_depth)
  if not has_limit:
    _check_drawings(split, measured)
  _check_medians(split, measured, has_limit=has_limit, remedy=remedy)
  if not has_limit:
    _check_marks(split, measured)
    _check_inverse(split, measured)


def _check_medians(split: str, ranges: Ranges, *, has_limit: bool,
                   remedy: Callable[[Range], str]) -> None:
  """Refuses depths that are far too small or too large."""
  largest = math.inf if has_limit else LARGEST_MEDIAN
  outside = {name: range_ for name, range_ in ranges.items()
             if not SMALLEST_MEDIAN <= range_.median <= largest}
  if not outside:
    return
  name, range_ = next(iter(outside.items()))
  advice = remedy(range_)
  if range_.median > LARGEST_MEDIAN:
    advice += " If the scenes are so large, give --max_depth METRES."
  raise ConfigError(
      f"--depth: {len(outside):,} of {len(ranges):,} depth maps of the split "
      f"{split!r} cannot be in metres: the median of {name!r} is "
      f"{range_.median:.4g} m; allowed: {SMALLEST_MEDIAN:g} to "
      f"{LARGEST_MEDIAN:g}. {advice}")


def guess_unit(range_: Range) -> str:
  """Which unit the numbers of a map look like, and the option to say so."""
  number = range_.median * range_.scale
  low, high = _USUAL_MEDIANS
  for name, steps in NAMES.items():
    if low <= number / steps <= high and steps != range_.scale:
      return (f"Its numbers, about {number:.4g}, look like {name}: give --unit "
              f"{name}.")
  return (f"Its numbers, about {number:.4g}, are in no usual unit; give --unit "
          "with the number of steps per metre: 5000 for TUM RGB-D, 4000 for "
          "Matterport3D, 256 for KITTI.")


def _check_drawings(split: str, ranges: Ranges) -> None:
  """Refuses what was drawn for the eye, so that its unit is lost."""
  looks = [
      (_has_levels, "no number is above 255, as in an image of 8 bits"),
      (_is_stretched, "the numbers fill all 16 bits"),
      (_is_normalised, "the floats end at 1 exactly, as if they were divided "
       "by the largest")]
  for looks_so, text in looks:
    # In real depth maps, this may happen to one of them.
    if not all(looks_so(range_) for range_ in ranges.values()):
      continue
    name = next(iter(ranges))
    raise ConfigError(
        f"--depth: the depth maps of the split {split!r} look like depth drawn "
        f"for the eye: in {name!r} {text}, and so in all. Find the files in a "
        f"unit of length. {_IF_METRES}")


def _has_levels(range_: Range) -> bool:
  is_fine = range_.scale >= NAMES["mm"]
  number = range_.largest * range_.scale
  return range_.is_whole and is_fine and round(number) <= _LARGEST_8_BITS


def _is_stretched(range_: Range) -> bool:
  number = range_.largest * range_.scale
  share_of_top = range_.num_top / range_.num_pixels
  is_full = _STRETCHED_SHARE * _LARGEST_16_BITS <= number <= _LARGEST_16_BITS
  return (range_.is_whole and is_full
          and 0 < share_of_top < _MAX_SHARE_OF_TOP)


def _is_normalised(range_: Range) -> bool:
  # A wall at 1 m is no such map.
  has_depth = range_.smallest < range_.largest / 2
  return not range_.is_whole and range_.largest == 1 and has_depth


def _check_marks(split: str, ranges: Ranges) -> None:
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


def _check_inverse(split: str, ranges: Ranges) -> None:
  """Refuses inverse depth and disparity."""
  total = depth_shape.Straight()
  for range_ in ranges.values():
    total += range_.straight
  if not total.is_inverse:
    return
  share = total.num_values / total.num_places
  raise ConfigError(
      f"--depth: the depth maps of the split {split!r} look like disparity or "
      f"inverse depth: flat surfaces are straight in the numbers themselves at "
      f"{share:.0%} of {total.num_places:,} places, where 1 / depth should be. "
      "Depth is focal length times baseline / disparity, or 1 / inverse depth. "
      f"{_IF_METRES}")
