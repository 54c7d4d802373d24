"""Figure 10: what f makes of the prior's code with a part of it masked.

  python -m tools.sweeps.masking --checkpoint W --evaluator NAME --out DIR

W is the workdir of a stage II run, NAME one of its panoptic evaluators, which
says the images. Each code is drawn once. Its left half is then masked by zero
vectors, by random words, and by one word (the first of the codebook). Writes to
DIR:

  masking.json  for each mask PQ inside of the masked half of the image and
                outside, and the share of pixels (%) whose class is no longer
                that of the unmasked code, inside and outside.
  masking.png   as in the paper: squares of growing size, three masks.

B batch · H W pixels · L words of a code
"""

import argparse
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluators import coco_panoptic, common, pq
from tools.sweeps import runs
from uvim import files, resize
from uvim.cli import app
from uvim.registry import ConfigError

# (top, left, bottom, right) in words, the last two exclusive.
Region = tuple[int, int, int, int]
# Rows and columns of words.
Grid = tuple[int, int]

# Cell of the sweep → mask, as `uvim.codes.masking.mask_code` takes it.
MASKS = {"none": None, "zeros": "zeros", "random": "random", "word": 0}
_TITLES = {"zeros": "zeros", "random": "random words", "word": "one word"}
_NUM_IMAGES = 2  # In masking.png.
_NUM_SIZES = 4  # Of the masked square in masking.png, an empty one included.


class Masking(NamedTuple):
  """What is masked: a mask (None: nothing), and the region it covers."""
  mask: str | int | None
  region: Region | None


class Side(NamedTuple):
  """A part of an image between two edges, as shares of its width."""
  name: str
  left: float
  right: float

  def columns_of(self, width: int) -> slice:
    """Its columns in an image of `width` pixels."""
    return slice(round(self.left * width), round(self.right * width))


def make_predict(family: Any, pred_kw: Mapping[str, Any],
                 maskings: Mapping[str, Masking]):
  """(variables, batch) → {name: int32 [B,H,W,2]}, jitted; one code for all.

  Args:
    family: an LmFamily of panoptic segmentation.
    pred_kw: options of the evaluator's prediction.
    maskings: what to mask, by name.
  """
  import jax
  sampling = {}
  output_options = {}
  for name, value in pred_kw.items():
    is_of_prior = name == "seed" or name in family.prior.options
    group = sampling if is_of_prior else output_options
    group[name] = value
  seed = sampling.get("seed", 0)

  @jax.jit
  def predict(variables, batch):
    code = family.sample(variables, batch, **sampling)
    found = {}
    for name, masking in maskings.items():
      logits = family.oracle.decode(
          variables["frozen"], code, batch, masking.mask, masking.region, seed)
      outputs = family.task.outputs(logits, **output_options)
      found[name] = outputs["panoptic"]
    return found

  return predict


# ── Figures ─────────────────────────────────────────────────────────────────


def measure(predictions: Iterator[Mapping[str, Any]], split: Any,
            share: float) -> dict[str, float]:
  """The figures of masking.json.

  Args:
    predictions: for each example of the split, mask → int [h,w,2].
    split: `.num_examples`, `.example(index)`, `.categories`.
    share: of the image's width that is masked, from the left.
  """
  sides = (Side("inside", 0, share), Side("outside", share, 1))
  tallies = {}
  for mask in MASKS:
    for side in sides:
      tallies[mask, side] = _Tally(split.categories)
  pairs = common.with_truth(predictions, split.num_examples, split.example)
  for example, raw in pairs:
    truth = coco_panoptic.make_truth(raw, split.categories)
    plain = resize.resize_nearest(example["none"], truth.size)
    for mask in MASKS:
      panoptic = resize.resize_nearest(example[mask], truth.size)
      for side in sides:
        columns = side.columns_of(truth.size[1])
        tallies[mask, side].add(truth, panoptic, plain, columns)
  figures = {}
  for (mask, side), tally in tallies.items():
    figures[f"{mask}/PQ_{side.name}"] = tally.quality()
  for (mask, side), tally in tallies.items():
    figures[f"{mask}/changed_{side.name}"] = tally.changed_share()
  return figures


class _Tally:
  """What was seen of one mask on one side of the images."""

  def __init__(self, categories: Sequence[Any]):
    self._categories = categories
    self._stat = pq.PQStat.zeros(categories)
    self._changed = 0.0
    self._num_images = 0

  def add(self, truth: coco_panoptic.Truth, panoptic: np.ndarray,
          plain: np.ndarray, columns: slice) -> None:
    """Adds an image.

    Args:
      truth: of the image.
      panoptic: int [H,W,2], the prediction with the mask.
      plain: int [H,W,2], the prediction without it.
      columns: of the side.
    """
    self._stat += quality_of_part(truth, panoptic, columns, self._categories)
    is_changed = panoptic[:, columns, 0] != plain[:, columns, 0]
    self._changed += float(np.mean(is_changed))
    self._num_images += 1

  def quality(self) -> float:
    """PQ in percent."""
    return 100 * self._stat.result()["All"]["pq"]

  def changed_share(self) -> float:
    """Percent of the pixels, averaged over images."""
    return 100 * self._changed / self._num_images


def quality_of_part(truth: coco_panoptic.Truth, panoptic: np.ndarray,
                    columns: slice, categories: Sequence[Any]) -> pq.PQStat:
  """PQ of some columns of an image, as if the rest had been cut off."""
  truth_HW = np.ascontiguousarray(truth.ids()[:, columns])
  seen = set(pq.unique_ids(truth_HW).tolist())
  true_segments = [segment for segment in truth.segments
                   if segment["id"] in seen]
  part = np.ascontiguousarray(panoptic[:, columns])
  ids_HW, segments = coco_panoptic.make_segments(part, categories)
  return pq.pq_image(
      truth_HW, true_segments, ids_HW, segments, categories=categories)


# ── The image ───────────────────────────────────────────────────────────────


def draw(family: Any, variables: Any, batch: Mapping[str, np.ndarray],
         pred_kw: Mapping[str, Any], grid: Grid) -> np.ndarray:
  """uint8 [height, width, 3]: a column for each size of the masked square.

  Args:
    family: see `make_predict`.
    variables: the family's.
    batch: numpy arrays; the first examples are drawn.
    pred_kw: see `make_predict`.
    grid: of the words.
  """
  from trainers import evaluation
  from trainers.families.drawing import render_image
  from trainers.report import panel
  sizes = _sizes_of_squares(grid)
  maskings = {}
  for size in sizes:
    square = (0, 0, size, size)
    for name in _TITLES:
      maskings[_key(size, name)] = Masking(MASKS[name], square)
  batch = evaluation.unmasked(batch)
  predicted = make_predict(family, pred_kw, maskings)(variables, batch)

  # As large as the labels, where there are two images.
  image_key = "image_ctx" if "image_ctx" in batch else "image"
  image_BHWC = render_image(batch[image_key])[:_NUM_IMAGES]
  num_rows, num_columns = grid
  columns = {}
  for size in sizes:
    drawn = [_blacken(image_BHWC, size, grid)]
    for name in _TITLES:
      panoptic = np.asarray(predicted[_key(size, name)])
      drawn.append(family.task.render({"panoptic": panoptic}))
    title = f"{size} x {size} of {num_rows} x {num_columns}"
    columns[title] = _interleave(drawn)
  row_names = ["image", *_TITLES.values()] * _NUM_IMAGES
  return panel.draw_panel(columns, rows=len(row_names), names=row_names)


def _sizes_of_squares(grid: Grid) -> list[int]:
  """Words along the side of each square, from none to all that fit."""
  largest = min(grid)
  sizes = set()
  for step in range(_NUM_SIZES):
    share = step / (_NUM_SIZES - 1)
    sizes.add(round(largest * share))
  return sorted(sizes)


def _key(size: int, name: str) -> str:
  """A string: JAX cannot sort a dict by pairs of unlike types."""
  return f"{size} {name}"


def _blacken(image_BHWC: np.ndarray, size: int, grid: Grid) -> np.ndarray:
  """Images, black where the upper left square of `size` words lies."""
  _, height, width, _ = image_BHWC.shape
  num_rows, num_columns = grid
  bottom = height * size // num_rows
  right = width * size // num_columns
  shown_BHWC = image_BHWC.copy()
  shown_BHWC[:, :bottom, :right] = 0
  return shown_BHWC


def _interleave(drawn: Sequence[np.ndarray]) -> np.ndarray:
  """All that was drawn of the first image, then of the next one."""
  found = []
  for index in range(_NUM_IMAGES):
    for images_BHWC in drawn:
      found.append(images_BHWC[index])
  return np.stack(found)


# ── The command ─────────────────────────────────────────────────────────────


def run(checkpoint: str, name: str, out: pathlib.Path) -> None:
  """What the command does; see the file's docstring.

  Raises:
    ConfigError: no such run or evaluator, a run of another task or kind.
  """
  from PIL import Image

  from pp import splits
  from trainers import scoring
  from trainers.families import open_checkpoint
  config = scoring.config_of(checkpoint)
  block, = scoring.choose(config, [name])
  if block.type != "coco_panoptic" or config.kind != "lm":
    raise ConfigError(f"--checkpoint {checkpoint} --evaluator {name}: it must "
                      "be a coco_panoptic evaluator of a stage II run.")
  family, variables = open_checkpoint(checkpoint, config)
  grid = _grid_of(family)
  num_rows, num_columns = grid
  half = num_columns // 2
  maskings = {}
  for mask_name, mask in MASKS.items():
    maskings[mask_name] = Masking(mask, (0, 0, num_rows, half))
  split = splits.open_split(block.dataset, block.split, block.data_dir)
  preprocess = split.make_preprocess(block.pp, config.pp_modules)
  batches = split.eval_batches(preprocess, batch_size=block.batch_size)
  predict = make_predict(family, block.pred_kw, maskings)
  predictions = _predict_all(predict, variables, batches)
  figures = measure(predictions, split, half / num_columns)
  first_batch = next(batches.start())
  drawn = draw(family, variables, first_batch, block.pred_kw, grid)

  def write_png(file):
    Image.fromarray(drawn).save(file, "PNG")

  files.replace_file(out / "masking.png", write_png)
  # Last: it says that all is there.
  figures_path = runs.measured_file(out, runs.MASKING)
  files.write_json(figures_path, figures, indent=1)


def _grid_of(family: Any) -> Grid:
  """The grid of the code's words."""
  grid = family.oracle.model.grid
  if grid is None:
    raise ConfigError("config.oracle.model: the words of this code lie on no "
                      "grid; only a grid has a left half.")
  return grid


def _predict_all(predict: Any, variables: Any, batches: Any
                 ) -> Iterator[Mapping[str, Any]]:
  """The predictions for each example, made on all devices."""
  import jax

  from uvim.learn import sharding
  mesh = sharding.make_mesh((("data", -1),))
  variables = jax.device_put(variables, sharding.replicated(mesh))

  def put(batch):
    return sharding.shard_batch(batch, mesh)

  return common.predict_all(predict, variables, batches.start(), put=put)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.sweeps.masking", __doc__)
  add = parser.add_argument
  add("--checkpoint", required=True, help="workdir of a stage II run")
  add("--evaluator", required=True, help="one of its panoptic evaluators")
  add("--out", required=True, help="folder of the results")
  return app.run(parser, command, argv)


def command(args: argparse.Namespace) -> None:
  from trainers import config_file
  config_file.quiet_absl()  # TFDS warns of its own calls.
  run(args.checkpoint, args.evaluator, pathlib.Path(args.out))


if __name__ == "__main__":
  sys.exit(main())
