"""One picture of a panoptic data set: photographs beside their segments."""

import colorsys
import io
import os
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pp.sources import Source

_WIDTH = 320  # Pixels of one picture on the sheet.
_GAP = 6
_PAPER = (24, 26, 30)


def _colour(label: int, order: int, isthing: bool) -> np.ndarray:
  """Things bright and apart from their neighbours, stuff muted by category."""
  hue = (label * 0.618034 + (order * 0.381966 if isthing else 0)) % 1
  return 255 * np.array(colorsys.hsv_to_rgb(
      hue, 0.85 if isthing else 0.4, 1.0 if isthing else 0.7))


def _paint(image_HW3: np.ndarray, example: dict[str, Any],
           source: Source) -> Image.Image:
  """The segments over a faded photograph; void is dark, borders are white."""
  ids_HW = example["panoptic_image"][..., :3].astype(np.int64) @ np.array(
      [1, 256, 65536])
  grey_HW1 = image_HW3.mean(-1, keepdims=True)
  out_HW3 = np.broadcast_to(0.25 * grey_HW1, image_HW3.shape).copy()
  objects, names = example["panoptic_objects"], []
  for order, (number, label) in enumerate(
      zip(objects["id"].tolist(), objects["label"].tolist(), strict=True)):
    known = label < len(source.categories)
    category = source.categories[label] if known else None
    mask_HW = ids_HW == number
    out_HW3[mask_HW] = 0.35 * grey_HW1[mask_HW] + 0.65 * _colour(
        label, order, category is None or category.isthing)
    if mask_HW.mean() > 0.04:
      y_M, x_M = np.nonzero(mask_HW)
      name = category.name if category else str(label)
      names.append((float(x_M.mean()), float(y_M.mean()), name))
  border_HW = np.zeros(ids_HW.shape, bool)
  border_HW[:, 1:] |= ids_HW[:, 1:] != ids_HW[:, :-1]
  border_HW[1:] |= ids_HW[1:] != ids_HW[:-1]
  out_HW3[border_HW] = 255
  picture = Image.fromarray(out_HW3.astype(np.uint8))
  return _write_names(picture, names)


def _fit(picture: Image.Image, **kw: Any) -> Image.Image:
  height = max(1, round(picture.height * _WIDTH / picture.width))
  return picture.resize((_WIDTH, height), **kw)


def _write_names(picture: Image.Image, names: list[tuple[float, float, str]]
                 ) -> Image.Image:
  """Resizes to the sheet and writes each name at the middle of its segment."""
  scale = _WIDTH / picture.width
  picture = _fit(picture)
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(size=13)
  for x, y, name in names:
    draw.text((x * scale, y * scale), name, font=font, anchor="mm",
              fill="white", stroke_width=2, stroke_fill=_PAPER)
  return picture


def _pair(source: Source, index: int) -> Image.Image:
  example = source.example(index)
  photo = Image.open(io.BytesIO(example["image"])).convert("RGB")
  right = _paint(np.asarray(photo, np.float32), example, source)
  out = Image.new("RGB", (2 * _WIDTH, right.height), _PAPER)
  out.paste(_fit(photo), (0, 0))
  out.paste(right, (_WIDTH, 0))
  return out


def write(source: Source, path: str | os.PathLike, *, max_examples: int = 12,
          columns: int = 3) -> None:
  """Writes a PNG with examples spread over the split, read back from disk."""
  count = min(max_examples, source.num_examples)
  picks = np.linspace(0, source.num_examples - 1, count).round().astype(int)
  pairs = [_pair(source, index) for index in picks.tolist()]
  columns = min(columns, count)
  # Each pair goes below the shortest column, so tall pictures leave no holes.
  heights, places = [_GAP] * columns, []
  for pair in pairs:
    column = int(np.argmin(heights))
    places.append((_GAP + column * (2 * _WIDTH + _GAP), heights[column]))
    heights[column] += pair.height + _GAP
  sheet = Image.new("RGB", (_GAP + columns * (2 * _WIDTH + _GAP),
                            max(heights)), _PAPER)
  for pair, place in zip(pairs, places, strict=True):
    sheet.paste(pair, place)
  sheet.save(path)
