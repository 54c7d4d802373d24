"""One picture of a data set: photographs beside their segments and depth."""

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


def _shade(depth_HW: np.ndarray) -> Image.Image:
  """Depth from near (yellow) to far (blue) with its range; dark where none."""
  import matplotlib
  known_HW = depth_HW > 0
  out_HW3 = np.broadcast_to(np.uint8(_PAPER), (*depth_HW.shape, 3)).copy()
  text = "no depth"
  if known_HW.any():
    depth_M = depth_HW[known_HW]
    low, high = float(depth_M.min()), float(depth_M.max())
    unit_M = (high - depth_M) / max(high - low, 1e-6)
    out_HW3[known_HW] = matplotlib.colormaps["viridis"](
        unit_M, bytes=True)[:, :3]
    text = f"{low:.3g} to {high:.3g} m in {100 * known_HW.mean():.0f} %"
  height, width = depth_HW.shape
  return _write_names(Image.fromarray(out_HW3),
                      [(width / 2, 0.95 * height, text)])


def _tiles(source: Source, index: int) -> Image.Image:
  """What one example holds, side by side."""
  example = source.example(index)
  photo = Image.open(io.BytesIO(example["image"])).convert("RGB")
  tiles = [_fit(photo)]
  if "panoptic_image" in example:
    tiles.append(_paint(np.asarray(photo, np.float32), example, source))
  if "depth" in example:
    depth = example["depth"].astype(np.float32)
    tiles.append(_shade(depth.reshape(depth.shape[:2])))
  out = Image.new("RGB", (len(tiles) * _WIDTH, max(x.height for x in tiles)),
                  _PAPER)
  for i, tile in enumerate(tiles):
    out.paste(tile, (i * _WIDTH, 0))
  return out


def write(source: Source, path: str | os.PathLike, *, max_examples: int = 12,
          columns: int = 3) -> None:
  """Writes a PNG with examples spread over the split, read back from disk."""
  count = min(max_examples, source.num_examples)
  picks = np.linspace(0, source.num_examples - 1, count).round().astype(int)
  panels = [_tiles(source, index) for index in picks.tolist()]
  width, columns = panels[0].width + _GAP, min(columns, count)
  # Each goes below the shortest column, so tall pictures leave no holes.
  heights, places = [_GAP] * columns, []
  for panel in panels:
    column = int(np.argmin(heights))
    places.append((_GAP + column * width, heights[column]))
    heights[column] += panel.height + _GAP
  sheet = Image.new("RGB", (_GAP + columns * width, max(heights)), _PAPER)
  for panel, place in zip(panels, places, strict=True):
    sheet.paste(panel, place)
  sheet.save(path)
