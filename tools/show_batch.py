"""Shows what preprocessing does to examples, op by op.

  python -m tools.show_batch --config configs/NAME.py[:argument]
    [--split SPLIT] [--n 4] [--out DIR]

Prints the first example's dict after each op (name, shape, dtype, range; `*`
marks what the op made or changed) and writes the first examples, before and
after, as one picture. Their random numbers are those of the first epoch of a
run with seed 0. The training split goes through `pp_train`, any other through
`pp_eval`.

Dimensions: H W pixels · C channels.
"""

import colorsys
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from uvim.registry import ConfigError

Data = dict[str, Any]

_HEIGHT = 200  # Pixels of one picture on the sheet.
_GAP = 8
_TEXT = 18
_PAPER = (24, 26, 30)


def flatten(data: Data, prefix: str = "") -> Data:
  """A nested dict as one level, names joined by slashes."""
  flat = {}
  for key, value in data.items():
    if isinstance(value, dict):
      flat.update(flatten(value, f"{prefix}{key}/"))
    else:
      flat[prefix + key] = value
  return flat


def trace(preprocess: Any, data: Data, seed: Any = None
          ) -> Iterator[tuple[str, Data]]:
  """The example as it is read, then after each op.

  Args:
    preprocess: from pp.builder.build.
    data: tensors by name, of one example.
    seed: int64 [2], or None if no op is random.

  Yields:
    (text of the op, the whole dict after it).
  """
  yield "as read", data
  for step in preprocess.steps:
    data = step.fn(data, seed)
    yield step.text, data


def _range_of(value: np.ndarray) -> str:
  if value.dtype == object:
    size = len(value.item()) if value.ndim == 0 else value.size
    return f"{size} {'bytes' if value.ndim == 0 else 'strings'}"
  if value.size == 0:
    return "empty"
  low, high = value.min().item(), value.max().item()
  return f"{low:.6g}" if low == high else f"{low:.6g} … {high:.6g}"


def describe(data: Data, before: Data | None = None) -> list[str]:
  """A line per tensor: name, shape, dtype, range.

  Args:
    data: tensors by name, may be nested.
    before: the dict before the op; what differs from it is marked with `*`.
  """
  flat, old = flatten(data), flatten(before or {})
  lines = []
  for name, tensor in sorted(flat.items()):
    value = np.asarray(tensor)
    mark = "*" if before is not None and old.get(name) is not tensor else " "
    shape = "×".join(map(str, value.shape)) or "scalar"
    dtype = "string" if value.dtype == object else str(value.dtype)
    lines.append(f"  {mark} {name:<26} {shape:<14} {dtype:<8} "
                 f"{_range_of(value)}")
  return lines


def colour_ids(ids_HW: np.ndarray) -> np.ndarray:
  """Each id its own colour, 0 black, negative ids grey; uint8 [H, W, 3]."""
  values, index = np.unique(ids_HW, return_inverse=True)
  table = np.array([
      (0, 0, 0) if v == 0 else (90, 90, 90) if v < 0 else
      [255 * c for c in colorsys.hsv_to_rgb(
          # The golden ratio keeps neighbouring ids apart.
          v * 0.618034 % 1, 0.55 + 0.4 * (v % 2), 0.75 + 0.25 * (v % 3 > 0))]
      for v in values.tolist()], np.uint8)
  return table[index.reshape(ids_HW.shape)]


def _shade(values_HW: np.ndarray) -> np.ndarray:
  """Numbers such as depth in the colours of viridis; uint8 [H, W, 3]."""
  import matplotlib
  low, high = values_HW.min(), values_HW.max()
  unit_HW = (values_HW - low) / max(float(high - low), 1e-12)
  return matplotlib.colormaps["viridis"](unit_HW, bytes=True)[..., :3]


def pictures(data: Data) -> list[tuple[str, np.ndarray]]:
  """(name, uint8 [H, W, 3]) of all that looks like an image or a label map."""
  found = []
  for name, tensor in sorted(flatten(data).items()):
    value = np.asarray(tensor)
    # Smaller ones are lists of boxes and the like.
    if value.ndim == 2 and min(value.shape) >= 8:
      value = value[..., None]
    if value.ndim != 3 or value.size == 0 or value.dtype.kind not in "iuf":
      continue
    if value.shape[-1] == 3 and value.dtype.kind == "f":
      # The pipeline's images are in [−1, 1].
      found.append((name, np.clip(
          np.round((value + 1) * 127.5), 0, 255).astype(np.uint8)))
    elif value.shape[-1] == 3 and value.dtype == np.uint8:
      found.append((name, value))
    else:
      paint = _shade if value.dtype.kind == "f" else colour_ids
      for c in range(value.shape[-1]):
        label = f"{name}[{c}]" if value.shape[-1] > 1 else name
        found.append((label, paint(value[..., c])))
  return found


def _fit(value_HW3: np.ndarray) -> Image.Image:
  height, width = value_HW3.shape[:2]
  # Unsmoothed, so that a label's pixels can be counted.
  return Image.fromarray(value_HW3).resize(
      (max(1, round(width * _HEIGHT / height)), _HEIGHT), Image.NEAREST)


def contact_sheet(rows: list[list[tuple[str, np.ndarray]]]) -> Image.Image:
  """Named pictures, a row per example, their names above them."""
  fitted = [[(name, _fit(value)) for name, value in row] for row in rows]
  width = max(sum(p.width + _GAP for _, p in row) for row in fitted) + _GAP
  step = _HEIGHT + _TEXT + _GAP
  sheet = Image.new("RGB", (width, step * len(rows) + _GAP), _PAPER)
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
  for i, row in enumerate(fitted):
    x = _GAP
    for name, picture in row:
      draw.text((x, _GAP + i * step), name, font=font, fill="white")
      sheet.paste(picture, (x, _GAP + i * step + _TEXT))
      x += picture.width + _GAP
  return sheet


def show(preprocess: Any, examples: list[tuple[Data, Any]],
         path: str | os.PathLike | None = None) -> None:
  """Prints the first example op by op; writes all before and after.

  Args:
    preprocess: from pp.builder.build.
    examples: (tensors by name, seed int64 [2] or None) of each.
    path: of the PNG; None: none is written.
  """
  rows = []
  for i, (data, seed) in enumerate(examples):
    before, row = None, []
    for text, state in trace(preprocess, data, seed):
      if i == 0:
        print(text, *describe(state, before), sep="\n")
      if before is None or text.startswith("decode"):
        row = pictures(state)
      before = state
    row = [(f"{name}, decoded", value) for name, value in row]
    rows.append(row + pictures(before))
  if path is not None and any(rows):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet([row for row in rows if row]).save(path)
    print(f"wrote {path}")


def _field(config: Any, name: str) -> Any:
  value = config.get(name)
  if value is None:
    raise ConfigError(f"config.{name} is missing.")
  return value


def show_config(config: Any, *, split: str | None = None, n: int = 4,
                out: str | None = None) -> None:
  """`show` on the first `n` examples of a config's data.

  Args:
    config: ConfigDict with dataset, train_split, pp_train and pp_eval.
    split: None means config.train_split.
    n: how many.
    out: folder of the picture; None means workdirs/show_batch.
  """
  if n < 1:
    raise ConfigError(f"--n: {n}; allowed: 1 or more.")
  import tensorflow as tf

  from pp import order, sources, stream
  train_split = _field(config, "train_split")
  split = split or train_split
  field = "pp_train" if split == train_split else "pp_eval"
  # A typo in the string is told before the data is looked for.
  preprocess = stream.make_preprocess(
      _field(config, field), config.get("pp_modules"))
  source = sources.make_source(
      _field(config, "dataset"), split, config.get("data_dir"))
  index = np.arange(min(n, source.num_examples))
  seeds = order.example_seeds(0, np.zeros_like(index), index)
  examples = [(source.tensors(i), tf.constant(seed))
              for i, seed in enumerate(seeds)]
  print(f"{source.dataset} {split}, {field}")
  show(preprocess, examples,
       pathlib.Path(out or "workdirs/show_batch") / "show_batch.png")


def _leave(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def main() -> None:
  """The command line."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from absl import app, flags, logging
  from ml_collections import config_flags
  config = config_flags.DEFINE_config_file("config", None, "configs/NAME.py")
  split = flags.DEFINE_string("split", None, "default: the training split")
  count = flags.DEFINE_integer("n", 4, "how many examples")
  out = flags.DEFINE_string("out", None, "folder of the picture")
  app.usage = lambda *args, **kwargs: print(__doc__)

  def parse(argv):
    try:
      return flags.FLAGS(argv)
    except Exception as e:  # Whatever a config file or an override raises.
      _leave(str(e) or type(e).__name__)

  def run(argv):
    if len(argv) > 1:
      _leave(f"Unexpected argument {argv[1]!r}.")
    if config.value is None:
      _leave("--config is missing.")
    # TFDS reports every file it opens.
    logging.set_verbosity(logging.ERROR)
    try:
      show_config(config.value, split=split.value, n=count.value,
                  out=out.value)
    except ConfigError as e:
      _leave(str(e))

  app.run(run, flags_parser=parse)


if __name__ == "__main__":
  main()
