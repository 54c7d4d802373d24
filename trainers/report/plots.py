"""Line plots as SVG text: small, sharp at any size, readable as a file.

A run draws a dozen of them at each evaluation. The import of matplotlib alone
would take longer and keep more memory than all of them.

In a plot, x and y are values; right and down are pixels from its corner.
"""

import html
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Point = tuple[float, float]
Points = Sequence[Point]

_WIDTH = 460
_HEIGHT = 260
# The edges of the frame that holds the curves.
_LEFT = 52
_RIGHT = _WIDTH - 12
_TOP = 48
_BOTTOM = _HEIGHT - 26
_TITLE_LINE = 16  # Where the title's letters stand.
_LEGEND_LINE = 35
# Told apart by everyone, on white and on black (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# A plot has fewer pixels than a long run has reports.
_MAX_POINTS = 300
# Longer curves have no marks on their points.
_MAX_MARKED = 40


def lines(title: str, series: Mapping[str, Points], *, x_label: str = "step",
          log_y: bool = False, y_range: tuple[float, float] | None = None
          ) -> str:
  """A plot of some curves over one axis.

  Args:
    title: what is plotted.
    series: name → (x, y) in the order of x. The plot leaves out values that
      are not finite and, on a log axis, those that are not positive. It draws
      long curves as means of neighbors.
    x_label: what x counts.
    log_y: whether y is drawn as its logarithm.
    y_range: of the axis; None: that of the values.

  Returns:
    An <svg> element. Each name is shown with the last value of its curve.
  """
  parts = [_text(_LEFT, _TITLE_LINE, title, "title")]
  curves = _drawable_curves(series, log_y)
  if curves:
    axes = _make_axes(curves, log_y, y_range)
    parts += axes.draw(x_label)
    parts += _legend(curves)
    for curve in curves:
      parts += _draw_curve(curve, axes)
  else:
    parts.append(_text(_LEFT, _LEGEND_LINE + 5, "no values yet"))
  content = "".join(parts)
  return _element("svg", content, viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
                  role="img", aria_label=title)


def thin(points: Points, limit: int = _MAX_POINTS) -> list[Point]:
  """At most `limit` points: means of equally many neighbors."""
  if len(points) <= limit:
    return list(points)
  edges = []
  for i in range(limit + 1):
    edges.append(round(i * len(points) / limit))
  means = []
  # Rounded edges make groups that differ by one point at most.
  for start, stop in itertools.pairwise(edges):
    xs, ys = zip(*points[start:stop], strict=True)
    count = stop - start
    means.append((sum(xs) / count, sum(ys) / count))
  return means


def number(value: float) -> str:
  """A number with four digits, for a reader."""
  if 1e4 <= abs(value) < 1e9:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers from `low` to `high`, about `count` of them."""
  # The power of ten at or just below the distance between `count` ticks.
  exponent = math.floor(math.log10((high - low) / count))
  # The smallest of 1, 2, 5 and 10 powers of ten that gives few enough.
  for factor in (1, 2, 5, 10):
    step = factor * 10.0 ** exponent
    if (high - low) / step <= count:
      break
  # The tolerance keeps a tick that rounding puts just outside.
  first = math.ceil(low / step - 1e-9)
  last = math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


class _Curve(NamedTuple):
  name: str
  points: list[Point]
  color: str


def _drawable_curves(series, log_y) -> list[_Curve]:
  """Curves that have points to draw, each with a color."""
  curves = []
  colors = itertools.cycle(COLORS)
  for name, points in series.items():
    # Only curves that are drawn use up a color.
    drawable = [(x, y) for x, y in points if _is_drawable(y, log_y)]
    if drawable:
      curves.append(_Curve(name, thin(drawable), next(colors)))
  return curves


def _is_drawable(y, log_y) -> bool:
  if log_y and y <= 0:
    return False
  return math.isfinite(y)


class _Axes(NamedTuple):
  """The map from values to pixels, and the frame around the curves.

  Attributes:
    x_range: lowest and highest x.
    y_range: lowest and highest y; on a log axis their decimal logarithms.
    log_y: whether y is drawn as its logarithm.
  """
  x_range: tuple[float, float]
  y_range: tuple[float, float]
  log_y: bool

  def right_of(self, x: float) -> float:
    """Pixels from the plot's left edge."""
    low, high = self.x_range
    share = (x - low) / (high - low)
    return _LEFT + share * (_RIGHT - _LEFT)

  def down_of(self, y: float) -> float:
    """Pixels from the plot's upper edge."""
    low, high = self.y_range
    if self.log_y:
      y = math.log10(y)
    # y grows upwards, pixels are counted downwards.
    share = (y - low) / (high - low)
    return _BOTTOM - share * (_BOTTOM - _TOP)

  def draw(self, x_label: str) -> Iterator[str]:
    """Grid lines with their numbers, and the name of x beside the title."""
    for y in self._y_ticks():
      down = self.down_of(y)
      yield _grid_line(_LEFT, down, _RIGHT, down)
      yield _text(_LEFT - 6, down + 4, _short(y), "end")
    for x in ticks(*self.x_range):
      right = self.right_of(x)
      yield _grid_line(right, _BOTTOM, right, _BOTTOM + 4)
      yield _text(right, _HEIGHT - 8, _short(x), "middle")
    yield _text(_RIGHT, _TITLE_LINE, f"by {x_label}", "end faint")

  def _y_ticks(self) -> list[float]:
    if not self.log_y:
      return ticks(*self.y_range)
    # Whole powers of ten, or the ends if the axis holds fewer than two.
    low, high = self.y_range
    first = math.ceil(low - 1e-9)
    last = math.floor(high + 1e-9)
    if last <= first:
      return [10.0**low, 10.0**high]
    step = 1 + (last - first) // 6
    return [10.0**i for i in range(first, last + 1, step)]


def _make_axes(curves, log_y, y_range) -> _Axes:
  xs = []
  ys = []
  for curve in curves:
    for x, y in curve.points:
      xs.append(x)
      ys.append(math.log10(y) if log_y else y)
  # All plots of a run start at 0, so that the eye can compare them.
  x_range = _widen(min(0, *xs), max(xs), 0)
  if y_range is None:
    y_range = _widen(min(ys), max(ys), 0.05)
  return _Axes(x_range, y_range, log_y)


def _widen(low, high, margin) -> tuple[float, float]:
  """The range to draw: with a margin, as a share of it, and never empty."""
  largest = max(abs(high), abs(low))
  if high - low > 1e-9 * largest:
    extra = margin * (high - low)
    return low - extra, high + extra
  # There is a single value: a tenth of it, or 1, on either side.
  below = abs(low) / 10 or 1
  above = abs(high) / 10 or 1
  return low - below, high + above


def _draw_curve(curve, axes) -> Iterator[str]:
  """The line; if there are few points, a mark with its value on each."""
  places = []
  marks = []
  for x, y in curve.points:
    right = axes.right_of(x)
    down = axes.down_of(y)
    places.append(f"{right:.1f},{down:.1f}")
    tip = html.escape(f"{curve.name}: {number(y)} at {number(x)}")
    marks.append(_element("circle", _element("title", tip),
                          cx=right, cy=down, r="3", fill=curve.color))
  yield _element("polyline", points=" ".join(places), fill="none",
                 stroke=curve.color, stroke_width="1.8",
                 stroke_linejoin="round")
  if len(marks) <= _MAX_MARKED:
    yield from marks


def _legend(curves) -> Iterator[str]:
  """Names in the colors of their curves, with the last values."""
  right = _LEFT
  down = _LEGEND_LINE - 4
  for curve in curves:
    _, last_value = curve.points[-1]
    label = f"{curve.name} {number(last_value)}"
    yield _element("line", x1=right, y1=down, x2=right + 14, y2=down,
                   stroke=curve.color, stroke_width="3")
    yield _text(right + 18, _LEGEND_LINE, label)
    # A letter is about six pixels wide.
    right += 30 + 6 * len(label)


def _short(value) -> str:
  """2500 → 2.5k."""
  if abs(value) >= 1e6:
    return f"{value / 1e6:g}M"
  if abs(value) >= 1e3:
    return f"{value / 1e3:g}k"
  return f"{value:.3g}"


def _grid_line(x1, y1, x2, y2) -> str:
  return _element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="grid")


def _text(right, down, text, kind="") -> str:
  return _element("text", html.escape(text), x=right, y=down, class_=kind)


def _element(tag: str, content: str | None = None,
             **attributes: float | str) -> str:
  """An SVG element.

  Args:
    tag: its name.
    content: SVG; text must be escaped. None: the element is empty.
    **attributes: numbers are pixels, with one digit. `_` stands for `-`.
  """
  opening = [tag]
  for name, value in attributes.items():
    # `class_` for `class`, which is a word of Python; `stroke_width` for
    # `stroke-width`.
    name = name.rstrip("_").replace("_", "-")
    if not isinstance(value, str):
      value = f"{value:.1f}"
    opening.append(f'{name}="{html.escape(value)}"')
  if content is None:
    return f"<{' '.join(opening)}/>"
  return f"<{' '.join(opening)}>{content}</{tag}>"
