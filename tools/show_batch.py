"""Shows what preprocessing does to examples, op by op.

  python -m tools.show_batch --config configs/NAME.py[:argument]
    [--config.field=value …] [--split SPLIT] [--n 4] [--out DIR]

Prints what each op does to the first example: `+` before a tensor that the op
made, `*` before one that it changed, `-` before those that it took away. Shape,
dtype and range follow. Last comes what the model gets.

Writes the first examples, before and after, as one image with the names of the
classes below. Their random numbers are those of the first epoch of a run with
seed 0. The training split goes through `pp_train`, any other split through
`pp_eval`.
"""

import argparse
import pathlib
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools import example_images
from tools.example_images import Data, NamedImage, flatten
from uvim import files
from uvim.categories import Category
from uvim.cli import app
from uvim.registry import ConfigError


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


def describe(data: Data) -> list[str]:
  """A line for each tensor: name, shape, dtype, range.

  Args:
    data: tensors by name, may be nested.
  """
  flat = flatten(data)
  return [_line("", name, tensor) for name, tensor in sorted(flat.items())]


def describe_change(before: Data, after: Data) -> list[str]:
  """A line for each tensor that an op made or changed, one for all it took.

  Args:
    before: tensors by name, may be nested.
    after: the same after the op. It holds the tensors that stay as they are.
  """
  old = flatten(before)
  new = flatten(after)
  lines = []
  for name, tensor in sorted(new.items()):
    if name not in old:
      lines.append(_line("+", name, tensor))
    elif tensor is not old[name]:
      lines.append(_line("*", name, tensor))
  taken = sorted(old.keys() - new.keys())
  if taken:
    lines += textwrap.wrap(
        ", ".join(taken), 80, initial_indent="  - ",
        subsequent_indent="    ")
  return lines or ["    changes nothing"]


def _line(mark: str, name: str, tensor: Any) -> str:
  """A tensor in columns."""
  value = np.asarray(tensor)
  sizes = [str(size) for size in value.shape]
  shape = "×".join(sizes) or "scalar"
  dtype = "string" if value.dtype == object else str(value.dtype)
  columns = f"{mark:1} {name:<26} {shape:<14} {dtype:<8}"
  return f"  {columns} {_range_of(value)}"


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


# ── The command ─────────────────────────────────────────────────────────────


def show(preprocess: Any, examples: Sequence[Example],
         path: pathlib.Path | None = None,
         categories: Sequence[Category] = ()) -> None:
  """Prints the first example op by op; draws all of them before and after.

  Args:
    preprocess: from pp.builder.build.
    examples: the examples.
    path: of the PNG; None: none is written.
    categories: of the data set, for the legend; class k is the k-th of them.
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
    drawn = example_images.draw_sheet(rows, categories)
    files.replace_file(path, lambda file: drawn.save(file, "PNG"))
    print(f"wrote {path}")


def _print_stages(stages: Sequence[Stage]) -> None:
  first = stages[0]
  _print_block(first.text, describe(first.data))
  before = first.data
  for stage in stages[1:]:
    _print_block(stage.text, describe_change(before, stage.data))
    before = stage.data
  _print_block("the model gets", describe(before))


def _print_block(title: str, lines: Sequence[str]) -> None:
  print("\n".join([title, *lines]))


def _before_and_after(stages: Sequence[Stage]) -> list[NamedImage]:
  """The images as they are decoded, and as they leave the last op."""
  decoded = stages[0]
  for stage in stages:
    if stage.text.startswith("decode"):
      decoded = stage
  row = []
  for named in example_images.images_of(decoded.data):
    row.append(named._replace(name=f"{named.name}, decoded"))
  last = stages[-1]
  return row + example_images.images_of(last.data)


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
  show(preprocess, examples, folder / "show_batch.png", source.categories)


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
