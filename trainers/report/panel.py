"""The panel of a run: examples as rows, what is shown of them as columns.

B examples · H W pixels
"""

from collections.abc import Mapping, Sequence

import numpy as np

from uvim.inference import sheet

_GAP = 4
_TITLE_HEIGHT = 20
# The titles need less space above them than the images need around them.
_MARGIN = sheet.Margin(left=_GAP, top=2, right=_GAP, bottom=_GAP)


def draw_panel(columns: Mapping[str, np.ndarray], *, rows: int = 6,
               scale_to: int = 128, names: Sequence[str] = ()) -> np.ndarray:
  """Lays out images as a grid: a row per example, a column per title.

  Args:
    columns: title → uint8 [B, H, W, 3]; sizes may differ between columns.
    rows: at most so many examples.
    scale_to: side of a cell in pixels (nearest resize).
    names: of the rows, written at their left.

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
  return np.asarray(drawn)


def _resize(image: np.ndarray, side: int):
  """A PIL image of `side` × `side` pixels, without new values."""
  from PIL import Image
  # Nearest: a label's pixels stay countable.
  pil_image = Image.fromarray(np.asarray(image))
  return pil_image.resize((side, side), Image.Resampling.NEAREST)
