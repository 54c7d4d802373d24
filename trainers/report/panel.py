"""The panel of a run: examples as rows, what is shown of them as columns.

B examples · H W pixels
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from uvim.inference import legend as legends
from uvim.inference import segments, sheet
from uvim.tasks.base import AbstractTask, Categories

# width= in pixels → a PIL image of that width, or None.
Legend = Callable[..., Any]

_GAP = 4
# With more classes, the legend has only those of the examples' truth.
_MAX_NAMES = 24
_TITLE_HEIGHT = 20
# The titles need less space above them than the images need around them.
_MARGIN = sheet.Margin(left=_GAP, top=2, right=_GAP, bottom=_GAP)


def draw_panel(columns: Mapping[str, np.ndarray], *, rows: int = 6,
               scale_to: int = 128, names: Sequence[str] = (),
               legend: Legend | None = None) -> np.ndarray:
  """Lays out images as a grid: a row per example, a column per title.

  Args:
    columns: title → uint8 [B, H, W, 3]; sizes may differ between columns.
    rows: at most so many examples.
    scale_to: side of a cell in pixels (nearest resize).
    names: of the rows, written at their left.
    legend: what the colors mean, see `make_legend`; it stands below.

  Returns:
    uint8 [height, width, 3].
  """
  # The columns may hold unlike numbers of examples.
  lengths = [len(images) for images in columns.values()]
  num_rows = min(rows, *lengths)
  cells = []
  for index in range(num_rows):
    row = []
    for images in columns.values():
      row.append(_resize(images[index], scale_to))
    cells.append(row)
  # Titles stand above the first row only.
  titles = [list(columns)]
  drawn = sheet.draw_sheet(
      cells, titles=titles, row_names=names, gap=_GAP, margin=_MARGIN,
      title_height=_TITLE_HEIGHT)
  return np.asarray(add_legend(drawn, legend, _GAP))


def add_legend(drawn: Any, legend: Legend | None, margin: int) -> Any:
  """A PIL image with a legend below it.

  Args:
    drawn: a PIL image that has this margin at its left and right.
    legend: see `make_legend`; None: there is nothing to explain.
    margin: in pixels.
  """
  if legend is None:
    return drawn
  explained = legend(width=drawn.width - 2 * margin)
  if explained is None:
    return drawn
  return sheet.draw_sheet([[drawn], [explained]], gap=0, margin=margin)


def make_legend(task: AbstractTask | None, batch: Mapping[str, Any],
                categories: Categories = None, *, rows: int = 6
                ) -> Legend | None:
  """The legend of a panel.

  Args:
    task: of the run; None: it has none.
    batch: the examples of the panel.
    categories: of the data set.
    rows: how many of the examples are drawn.

  Returns:
    None if there is nothing to explain.
  """
  if task is None:
    return None
  num_classes = task.num_categories
  if num_classes is None:
    return functools.partial(legends.draw_legend, task, [])
  classes = list(range(1, num_classes + 1))
  if num_classes > _MAX_NAMES:
    pairs = segments.pairs_of(task, task.truth(batch))
    seen = np.unique(pairs[:rows, ..., 0]).tolist()
    classes = [number for number in seen if number > 0]
  return functools.partial(legends.draw_names, classes, categories)


def _resize(image: np.ndarray, side: int):
  """A PIL image of `side` × `side` pixels, without new values."""
  from PIL import Image
  # Nearest: a label's pixels stay countable.
  pil_image = Image.fromarray(np.asarray(image))
  return pil_image.resize((side, side), Image.Resampling.NEAREST)
