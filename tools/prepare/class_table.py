"""The table of classes of a split: how often each occurs, and how large."""

import collections
import dataclasses
import io
from collections.abc import Iterable, Sequence

from pp.sources import Source
from tools import passes
from uvim import progress
from uvim.categories import Category
from uvim.opener import open_image


@dataclasses.dataclass(frozen=True)
class ImageCount:
  """The segments of one image.

  Attributes:
    areas: (label, area in pixels) of each segment.
    num_pixels: of the image.
  """
  areas: Sequence[tuple[int, int]]
  num_pixels: int


def print_table(source: Source) -> None:
  """Prints the table of a split that is on disk, if it has classes."""
  if not source.categories:
    return

  def count(index):
    return _count(source, index)

  num_examples = source.num_examples
  counts = progress.bar(
      passes.map_in_threads(count, range(num_examples)), total=num_examples,
      label="Counting", unit="examples", stays=False)
  for line in make_table(counts, source.categories):
    print(line)


def _count(source: Source, index: int) -> ImageCount:
  """The segments of an example, without decoding its images."""
  import tensorflow as tf
  record = source.read([index])[0]
  features = tf.train.Example.FromString(record).features.feature
  labels = features["panoptic_objects/label"].int64_list.value
  areas = features["panoptic_objects/area"].int64_list.value
  file = io.BytesIO(features["panoptic_image"].bytes_list.value[0])
  # Only the header is read.
  with open_image(file, f"example {index}") as image:
    num_pixels = image.width * image.height
  return ImageCount(list(zip(labels, areas, strict=True)), num_pixels)


def make_table(counts: Iterable[ImageCount], categories: Sequence[Category]
               ) -> list[str]:
  """The lines of the table: one for each class, and void.

  Args:
    counts: one for each image.
    categories: in the order of the labels.
  """
  num_images = collections.Counter()
  num_segments = collections.Counter()
  area_of = collections.Counter()
  num_pixels = 0
  for count in counts:
    num_pixels += count.num_pixels
    # An image counts once, however many segments of a class it has.
    num_images.update({label for label, _ in count.areas})
    for label, area in count.areas:
      num_segments[label] += 1
      area_of[label] += area
  rows = [("class", "kind", "images", "segments", "pixels")]
  for label, category in enumerate(categories):
    kind = "thing" if category.isthing else "stuff"
    rows.append((category.name, kind, f"{num_images[label]:,}",
                 f"{num_segments[label]:,}",
                 _percent(area_of[label], num_pixels)))
  void_area = num_pixels - area_of.total()
  rows.append(("void", "", "", "", _percent(void_area, num_pixels)))
  return _aligned(rows)


def _percent(part: int, whole: int) -> str:
  """A share, such as '16.20 %'."""
  percent = 100 * part / whole if whole else 0
  return f"{percent:.2f} %"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Columns as wide as their longest text; numbers end at the right."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for name, kind, *numbers in rows:
    parts = [name.ljust(widths[0]), kind.ljust(widths[1])]
    for number, width in zip(numbers, widths[2:], strict=True):
      parts.append(number.rjust(width))
    lines.append("  ".join(parts))
  return lines
