"""The panel of a run: examples as rows, what is shown of them as columns.

B examples · H W pixels
"""

from collections.abc import Mapping, Sequence

import numpy as np

from uvim.inference import sheet

_GAP = 4
_TITLE_HEIGHT = 20
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
  num_examples = min(len(images) for images in columns.values())
  cells = []
  for index in range(min(rows, num_examples)):
    row = [_resize(images[index], scale_to) for images in columns.values()]
    cells.append(row)
  drawn = sheet.draw_sheet(
      cells, titles=[list(columns)], row_names=names, gap=_GAP,
      margin=_MARGIN, title_height=_TITLE_HEIGHT)
  return np.asarray(drawn)


def _resize(image: np.ndarray, side: int):
  """A PIL image of `side` × `side` pixels, without new values."""
  from PIL import Image
  pil_image = Image.fromarray(np.asarray(image))
  return pil_image.resize((side, side), Image.Resampling.NEAREST)
