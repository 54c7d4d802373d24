"""Shows what preprocessing does to examples, op by op.

  python -m tools.show_batch --config configs/NAME.py[:argument]
    [--config.field=value …] [--split SPLIT] [--n 4] [--out DIR]

Prints the first example's dict after each op: name, shape, dtype and range; `*`
marks what the op made or changed. Writes the first examples, before and after,
as one image. Their random numbers are those of the first epoch of a run with
seed 0. The training split goes through `pp_train`, any other split through
`pp_eval`.

H W pixels · C channels
"""

import argparse
import colorsys
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uvim import files
from uvim.cli import app
from uvim.inference import sheet
from uvim.registry import ConfigError

Data = Mapping[str, Any]

_IMAGE_HEIGHT = 200  # Pixels of one image on the sheet.
_GAP = 8
_BACKGROUND = (24, 26, 30)
# A smaller array of rank 2 is a list of boxes or the like.
_MIN_MAP_SIZE = 8

_VOID_COLOR = (0, 0, 0)
_NEGATIVE_COLOR = (90, 90, 90)
# Multiples of the golden ratio, modulo 1, keep neighboring ids apart.
_HUE_STEP = 0.618034


class Example(NamedTuple):
  """A raw example.

  Attributes:
    data: tensors by name, may be nested.
    seed: int64 [2], or None if no op is random.
  """
  data: Data
  seed: Any = None


class Stage(NamedTuple):
  """An example after an op.

  Attributes:
    text: the op as the string has it.
    data: all tensors by name.
  """
  text: str
  data: Data


class NamedImage(NamedTuple):
  """An image of a sheet: its title, and uint8 [H, W, 3]."""
  name: str
  image_HWC: np.ndarray


def flatten(data: Data, prefix: str = "") -> dict[str, Any]:
  """A nested dict as one level, names joined by slashes."""
  flat = {}
  for key, value in data.items():
    if isinstance(value, Mapping):
      inner_prefix = f"{prefix}{key}/"
      flat |= flatten(value, inner_prefix)
    else:
      flat[prefix + key] = value
  return flat


def trace(preprocess: Any, example: Example) -> Iterator[Stage]:
  """The example as it is read, then after each op.

  Args:
    preprocess: from pp.builder.build.
    example: what goes through it.
  """
  data = example.data
  yield Stage("as read", data)
  for step in preprocess.steps:
    data = step.fn(data, example.seed)
    yield Stage(step.text, data)


# ── As text ─────────────────────────────────────────────────────────────────


def describe(data: Data, before: Data | None = None) -> list[str]:
  """A line for each tensor: name, shape, dtype, range.

  Args:
    data: tensors by name, may be nested.
    before: the dict before the op; what differs from it is marked with `*`.
  """
  flat = flatten(data)
  old = flatten(before or {})
  lines = []
  for name, tensor in sorted(flat.items()):
    is_new = before is not None and old.get(name) is not tensor
    mark = "*" if is_new else " "
    value = np.asarray(tensor)
    sizes = [str(size) for size in value.shape]
    shape = "×".join(sizes) or "scalar"
    dtype = "string" if value.dtype == object else str(value.dtype)
    columns = f"{name:<26} {shape:<14} {dtype:<8}"
    lines.append(f"  {mark} {columns} {_range_of(value)}")
  return lines


def _range_of(value: np.ndarray) -> str:
  """The smallest and the largest number, or the length of what is no number."""
  if value.dtype == object:
    if value.ndim == 0:
      return f"{len(value.item())} bytes"
    return f"{value.size} strings"
  if value.size == 0:
    return "empty"
  lowest = value.min().item()
  highest = value.max().item()
  if lowest == highest:
    return f"{lowest:.6g}"
  return f"{lowest:.6g} … {highest:.6g}"


# ── As images ───────────────────────────────────────────────────────────────


def images_of(data: Data) -> list[NamedImage]:
  """Everything that looks like an image or a map of labels, drawn."""
  found = []
  flat = flatten(data)
  for name, tensor in sorted(flat.items()):
    value = np.asarray(tensor)
    found += _draw(name, value)
  return found


def _draw(name: str, value: np.ndarray) -> list[NamedImage]:
  """The images of one tensor: one, one for each channel, or none."""
  if value.ndim == 2 and min(value.shape) >= _MIN_MAP_SIZE:
    value = value[..., None]
  kind = value.dtype.kind
  is_number = kind in "iuf"
  if value.ndim != 3 or value.size == 0 or not is_number:
    return []
  num_channels = value.shape[-1]
  if num_channels == 3 and kind == "f":
    image = _to_bytes(value)
    return [NamedImage(name, image)]
  if num_channels == 3 and value.dtype == np.uint8:
    return [NamedImage(name, value)]

  drawn = []
  paint = color_values if kind == "f" else color_ids
  for channel in range(num_channels):
    title = f"{name}[{channel}]" if num_channels > 1 else name
    image = paint(value[..., channel])
    drawn.append(NamedImage(title, image))
  return drawn


def _to_bytes(image_HWC: np.ndarray) -> np.ndarray:
  """An image in [−1, 1], as preprocessing makes it, as uint8."""
  scaled_HWC = (image_HWC + 1) * 127.5
  levels_HWC = np.round(scaled_HWC)
  levels_HWC = np.clip(levels_HWC, 0, 255)
  return levels_HWC.astype(np.uint8)


def color_ids(ids_HW: np.ndarray) -> np.ndarray:
  """Each id in a color of its own; uint8 [H, W, 3]."""
  ids, index = np.unique(ids_HW, return_inverse=True)
  colors = [_color_of(number) for number in ids.tolist()]
  palette = np.array(colors, np.uint8)
  index_HW = index.reshape(ids_HW.shape)
  return palette[index_HW]


def _color_of(number: int) -> tuple[float, float, float]:
  """Red, green, blue: 0 is black, a negative number grey."""
  if number == 0:
    return _VOID_COLOR
  if number < 0:
    return _NEGATIVE_COLOR
  hue = number * _HUE_STEP % 1
  saturation = 0.95 if number % 2 else 0.55
  brightness = 1.0 if number % 3 else 0.75
  red, green, blue = colorsys.hsv_to_rgb(hue, saturation, brightness)
  return 255 * red, 255 * green, 255 * blue


def color_values(values_HW: np.ndarray) -> np.ndarray:
  """Numbers such as depth in the colors of viridis; uint8 [H, W, 3]."""
  import matplotlib
  lowest = values_HW.min()
  highest = values_HW.max()
  span = float(highest - lowest)
  span = max(span, 1e-12)  # An even map has none.
  unit_HW = (values_HW - lowest) / span
  color_map = matplotlib.colormaps["viridis"]
  colors_HWC = color_map(unit_HW, bytes=True)
  return colors_HWC[..., :3]  # Without opacity.


def draw_sheet(rows: Sequence[Sequence[NamedImage]]):
  """A PIL image: a row for each example, the names above the images."""
  images = []
  titles = []
  for row in rows:
    row_images = [_fit(named.image_HWC) for named in row]
    row_titles = [named.name for named in row]
    images.append(row_images)
    titles.append(row_titles)
  return sheet.draw_sheet(
      images,
      titles=titles,
      gap=_GAP,
      margin=_GAP,
      background=_BACKGROUND,
      text_color=sheet.WHITE)


def _fit(image_HWC: np.ndarray):
  """A PIL image of the height of the sheet's rows."""
  from PIL import Image
  height, width = image_HWC.shape[:2]
  scaled_width = round(width * _IMAGE_HEIGHT / height)
  fitted_size = (max(1, scaled_width), _IMAGE_HEIGHT)
  image = Image.fromarray(image_HWC)
  # Nearest, so that the pixels of a label can be counted.
  return image.resize(fitted_size, Image.Resampling.NEAREST)


# ── The command ─────────────────────────────────────────────────────────────


def show(preprocess: Any, examples: Sequence[Example],
         path: pathlib.Path | None = None) -> None:
  """Prints the first example op by op; draws all of them before and after.

  Args:
    preprocess: from pp.builder.build.
    examples: the examples.
    path: of the PNG; None: none is written.
  """
  rows = []
  for index, example in enumerate(examples):
    stages = list(trace(preprocess, example))
    if index == 0:
      _print_stages(stages)
    row = _before_and_after(stages)
    if row:
      rows.append(row)
  if path is not None and rows:
    drawn = draw_sheet(rows)
    files.replace_file(path, lambda file: drawn.save(file, "PNG"))
    print(f"wrote {path}")


def _print_stages(stages: Sequence[Stage]) -> None:
  before = None
  for stage in stages:
    print(stage.text)
    for line in describe(stage.data, before):
      print(line)
    before = stage.data


def _before_and_after(stages: Sequence[Stage]) -> list[NamedImage]:
  """The images as they are decoded, and as they leave the last op."""
  decoded = stages[0]
  for stage in stages:
    if stage.text.startswith("decode"):
      decoded = stage
  row = []
  for named in images_of(decoded.data):
    title = f"{named.name}, decoded"
    row.append(NamedImage(title, named.image_HWC))
  last = stages[-1]
  return row + images_of(last.data)


def show_config(config: Any, *, split: str | None = None, n: int = 4,
                out: str | None = None) -> None:
  """`show` on the first `n` examples of a config's data.

  Args:
    config: ConfigDict with dataset, train_split, pp_train and pp_eval.
    split: None means config.train_split.
    n: how many.
    out: folder of the image; None means workdirs/show_batch.

  Raises:
    ConfigError: a field is missing, a mistake in the string, no data.
  """
  if n < 1:
    raise ConfigError(f"--n: {n}; allowed: 1 or more.")
  import tensorflow as tf

  from pp import order, sources, stream
  train_split = _value_of(config, "train_split")
  split = split or train_split
  pp_field = "pp_train" if split == train_split else "pp_eval"
  # First: a mistake in the string is told before the data is looked for.
  pp_text = _value_of(config, pp_field)
  preprocess = stream.make_preprocess(pp_text, config.get("pp_modules"))
  dataset = _value_of(config, "dataset")
  source = sources.make_source(dataset, split, config.get("data_dir"))
  num_examples = min(n, source.num_examples)
  index_B = np.arange(num_examples)
  epoch_B = np.zeros_like(index_B)
  seed_B2 = order.example_seeds(0, epoch_B, index_B)
  examples = []
  for index, seed in enumerate(seed_B2):
    data = source.tensors(index)
    examples.append(Example(data, tf.constant(seed)))
  print(f"{source.dataset} {split}, {pp_field}")
  folder = pathlib.Path(out or "workdirs/show_batch")
  show(preprocess, examples, folder / "show_batch.png")


def _value_of(config: Any, name: str) -> Any:
  value = config.get(name)
  if value is None:
    raise ConfigError(f"config.{name} is missing.")
  return value


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.show_batch", __doc__)
  add = parser.add_argument
  add("--config", required=True, help="configs/NAME.py[:argument]")
  add("--split", help="default: the training split")
  add("--n", type=int, default=4, help="how many examples (default 4)")
  add("--out", help="folder of the image (default workdirs/show_batch)")
  return app.run(parser, command, argv, takes_overrides=True)


def command(args: argparse.Namespace) -> None:
  """What the command does."""
  from trainers import config_file
  config_file.quiet_absl()  # TFDS reports every file it opens.
  config = config_file.load_config(args.config, args.overrides)
  show_config(config, split=args.split, n=args.n, out=args.out)


if __name__ == "__main__":
  sys.exit(main())
