"""Line plots as SVG text: small, sharp at any size, readable as a file.

By hand, because a run draws a dozen of them at each of its evaluations:
matplotlib's import alone would take longer and keep more memory than all.
"""

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 48, 26
# Told apart by everyone, on white and on black (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MAX_POINTS = 300
_MAX_MARKED = 40


def lines(title: str, series: Mapping[str, Points], *, x_label: str = "step",
          log_y: bool = False, y_range: tuple[float, float] | None = None
          ) -> str:
  """A plot of some curves over one axis.

  Args:
    title: what is plotted.
    series: name → (x, y) in the order of x. What is not finite is left out,
      and on a log axis what is not positive; long curves become means of
      neighbours.
    x_label: what x counts.
    log_y: whether y is drawn as its logarithm.
    y_range: of the axis; None: that of the values.

  Returns:
    An <svg> element. Each name is shown with the last value of its curve.
  """
  curves = {name: thin(_drawable(points, log_y))
            for name, points in series.items()}
  curves = {name: points for name, points in curves.items() if points}
  parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
           f'aria-label="{html.escape(title)}">',
           _text(_LEFT, 16, title, "title")]
  if not curves:
    return "".join([*parts, _text(_LEFT, 40, "no values yet"), "</svg>"])
  axes = _Axes([p for points in curves.values() for p in points], log_y,
               y_range)
  parts += [*axes.draw(x_label), *_legend(curves)]
  for colour, (name, points) in zip(_colours(), curves.items(), strict=False):
    parts += _curve(name, [(*axes.place(p), *p) for p in points], colour)
  return "".join([*parts, "</svg>"])


def thin(points: Points, limit: int = _MAX_POINTS) -> Points:
  """At most `limit` points: means of equally many neighbours."""
  if len(points) <= limit:
    return list(points)
  edges = [round(i * len(points) / limit) for i in range(limit + 1)]
  parts = [points[a:b] for a, b in zip(edges, edges[1:], strict=False)]
  return [tuple(sum(v) / len(part) for v in zip(*part, strict=True))
          for part in parts]


def number(value: float) -> str:
  """Four digits of it, and no more."""
  return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers from `low` to `high`, about `count` of them."""
  exponent = math.floor(math.log10((high - low) / count))
  for factor in (1, 2, 5, 10):
    step = factor * 10.0 ** exponent
    if (high - low) / step <= count:
      break
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [i * step for i in range(first, last + 1)]


def _drawable(points, log_y):
  return [(x, y) for x, y in points
          if math.isfinite(y) and (y > 0 or not log_y)]


class _Axes:
  """The map from values to places, and the frame around it."""

  def __init__(self, points, log_y, y_range):
    self.log_y = log_y
    xs, ys = zip(*points, strict=True)
    ys = [math.log10(y) for y in ys] if log_y else ys
    # From 0, as all plots of a run: the eye compares them.
    self.x = _span(min(0, min(xs)), max(xs), 0)
    self.y = y_range or _span(min(ys), max(ys), 0.05)

  def place(self, point):
    x, y = point
    y = math.log10(y) if self.log_y else y
    across = (x - self.x[0]) / (self.x[1] - self.x[0])
    up = (y - self.y[0]) / (self.y[1] - self.y[0])
    return (_LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM))

  def draw(self, x_label):
    """Grid lines with their numbers, and what x is where no curve can be."""
    bottom = _HEIGHT - _BOTTOM
    for y in self._y_ticks():
      _, at = self.place((self.x[0], y))
      yield _line(_LEFT, at, _WIDTH - _RIGHT, at)
      yield _text(_LEFT - 6, at + 4, _short(y), "end")
    for x in ticks(*self.x, 5):
      at = _LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (
          _WIDTH - _LEFT - _RIGHT)
      yield _line(at, bottom, at, bottom + 4)
      yield _text(at, _HEIGHT - 8, _short(x), "middle")
    yield _text(_WIDTH - _RIGHT, 16, f"by {x_label}", "end faint")

  def _y_ticks(self):
    if not self.log_y:
      return ticks(*self.y)
    low, high = math.ceil(self.y[0] - 1e-9), math.floor(self.y[1] + 1e-9)
    if high - low >= 1:
      return [10.0**i for i in range(low, high + 1, 1 + (high - low) // 6)]
    return [10.0**y for y in self.y]


def _span(low, high, margin):
  """The range to draw; never empty."""
  if high - low <= 1e-9 * max(abs(high), abs(low)):
    margin, low, high = 0, low - (abs(low) / 10 or 1), high + (
        abs(high) / 10 or 1)
  return low - margin * (high - low), high + margin * (high - low)


def _curve(name, places, colour):
  """The line, and where there are few points a mark with its value on each."""
  path = " ".join(f"{u:.1f},{v:.1f}" for u, v, _, _ in places)
  yield (f'<polyline points="{path}" fill="none" stroke="{colour}" '
         'stroke-width="1.8" stroke-linejoin="round"/>')
  if len(places) > _MAX_MARKED:
    return
  for u, v, x, y in places:
    tip = html.escape(f"{name}: {number(y)} at {number(x)}")
    yield (f'<circle cx="{u:.1f}" cy="{v:.1f}" r="3" fill="{colour}">'
           f"<title>{tip}</title></circle>")


def _legend(curves):
  """Names in the colours of their curves, with the last values."""
  at = _LEFT
  for colour, (name, points) in zip(_colours(), curves.items(), strict=False):
    label = f"{name} {number(points[-1][1])}"
    yield _line(at, 31, at + 14, 31, f' stroke="{colour}" stroke-width="3"')
    yield _text(at + 18, 35, label)
    at += 30 + 6 * len(label)


def _colours():
  while True:
    yield from COLOURS


def _short(value):
  """2500 → 2.5k."""
  for unit, size in (("M", 1e6), ("k", 1e3)):
    if abs(value) >= size:
      return f"{value / size:g}{unit}"
  return f"{value:.3g}"


def _line(x1, y1, x2, y2, style=' class="grid"'):
  return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
          f"{style}/>")


def _text(x, y, text, kind=""):
  return (f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{html.escape(text)}'
          "</text>")
