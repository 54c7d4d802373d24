"""Figure 10: what f makes of the language model's code with a part masked.

  python -m tools.sweeps.masking --checkpoint W --evaluator NAME --out DIR

W is a workdir of stage II, NAME one of its panoptic evaluators, which says the
pictures. Each code is drawn once; its left half is then masked by zero vectors,
by random words, and by one word (the dictionary's first). Writes to DIR:

  masking.json  for each mask PQ inside of the masked half of the picture and
                outside, and the share of pixels (%) whose class is no longer
                that of the unmasked code, inside and outside.
  masking.png   as in the paper: squares of growing size, three masks.

Suffixes: B batch · H W pixels · L words of a code.
"""

import argparse
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators import coco_panoptic, common, pq
from tools import evaluate
from tools.sweeps.plan import MASKING_FILE
from trainers.main import quiet_tensorflow
from uvim import resize
from uvim.config import EvalConfig
from uvim.registry import ConfigError

MASKS = {"none": None, "zeros": "zeros", "random": "random", "word": 0}
EXIT_BAD_INPUT = 2
_SAMPLE = ("temperature", "seed", "top_k", "top_p")
_PICTURES = 2
_LABELS = {"zeros": "zeros", "random": "random words", "word": "one word"}
Region = tuple[int, int, int, int]


def make_predict(stage: Any, pred_kw: Mapping[str, Any],
                 masks: Mapping[Any, tuple[Any, Region | None]]):
  """(variables, batch) → {name: int32 [B,H,W,2]}, jitted; one code for all.

  Args:
    stage: an LmStage of panoptic segmentation.
    pred_kw: options of the evaluator's prediction.
    masks: name → (mask, region), as `uvim.codes.vq.mask_code` takes them.
  """
  import jax
  sampling = {k: v for k, v in pred_kw.items() if k in _SAMPLE}
  outputs = {k: v for k, v in pred_kw.items() if k not in _SAMPLE}

  @jax.jit
  def predict(variables, batch):
    code_BL = stage.sample(variables, batch, **sampling)

    def decode(mask, region):
      logits = stage.oracle.decode(variables["frozen"], code_BL, batch, mask,
                                   region, sampling.get("seed", 0))
      return stage.task.outputs(logits, **outputs)["panoptic"]

    return {name: decode(*value) for name, value in masks.items()}

  return predict


def measure(predictions: Iterator[Mapping[str, Any]], source: Any,
            share: float) -> dict[str, float]:
  """The figures of masking.json.

  Args:
    predictions: for each example of the source, mask → int [h,w,2].
    source: `.num_examples`, `.example(index)`, `.categories`.
    share: of the picture's width that is masked, from the left.
  """
  categories = source.categories
  sides = {"inside": slice(0, share), "outside": slice(share, 1)}
  stats = {(mask, side): pq.PQStat.zeros(categories)
           for mask in MASKS for side in sides}
  changed = dict.fromkeys(stats, 0.0)
  count = 0
  pairs = common.with_truth(predictions, source.num_examples, source.example)
  for example, raw in pairs:
    truth = coco_panoptic.make_truth(raw, categories)
    count += 1
    for mask in MASKS:
      panoptic = resize.resize_nearest(example[mask], truth.size)
      plain = resize.resize_nearest(example["none"], truth.size)
      for side, part in sides.items():
        columns = slice(*(round(x * truth.size[1])
                          for x in (part.start, part.stop)))
        stats[mask, side] += pq_part(truth, panoptic, columns, categories)
        changed[mask, side] += float(np.mean(
            panoptic[:, columns, 0] != plain[:, columns, 0]))
  out = {f"{mask}/PQ_{side}": 100 * stat.result()["All"]["pq"]
         for (mask, side), stat in stats.items()}
  return out | {f"{mask}/changed_{side}": 100 * x / count
                for (mask, side), x in changed.items()}


def pq_part(truth: coco_panoptic.Truth, panoptic: np.ndarray, columns: slice,
            categories: Sequence[Any]) -> pq.PQStat:
  """PQ of some columns of a picture, as if the rest had been cut off."""
  truth_HW = np.ascontiguousarray(truth.ids()[:, columns])
  seen = set(pq.unique_ids(truth_HW).tolist())
  ids_HW, segments = coco_panoptic.make_segments(
      np.ascontiguousarray(panoptic[:, columns]), categories)
  return pq.pq_image(
      truth_HW, [s for s in truth.segments if s["id"] in seen], ids_HW,
      segments, categories=categories)


def picture(stage: Any, variables: Any, batch: Mapping[str, np.ndarray],
            pred_kw: Mapping[str, Any], side: int) -> np.ndarray:
  """uint8 [height, width, 3]: a column per size of the masked square.

  Args:
    stage: see `make_predict`.
    variables: the stage's.
    batch: numpy arrays; the first examples are drawn.
    pred_kw: see `make_predict`.
    side: words along a side of the code.
  """
  from trainers import evaluation
  from trainers.report import panel
  from trainers.vqvae import render_image
  sizes = sorted({round(side * k / 3) for k in range(4)})
  masks = {(size, name): (mask, (0, 0, size, size)) for size in sizes
           for name, mask in MASKS.items() if mask is not None}
  # As strings: a tree of pairs of mixed types cannot be sorted.
  predict = make_predict(stage, pred_kw, {
      f"{size} {name}": value for (size, name), value in masks.items()})
  batch = evaluation.unmasked(batch)
  found = predict(variables, batch)
  image = render_image(batch["image_ctx" if "image_ctx" in batch else "image"])
  columns = {}
  for size in sizes:
    shown = image[:_PICTURES].copy()
    rows, width = (x * size // side for x in image.shape[1:3])
    shown[:, :rows, :width] = 0
    drawn = [stage.task.render({"panoptic": np.asarray(
        found[f"{size} {name}"])}) for name in _LABELS]
    columns[f"{size} x {size} of {side} x {side}"] = np.stack([
        x[i] for i in range(_PICTURES) for x in (shown, *drawn)])
  names = ["picture", *_LABELS.values()]
  return panel.draw_panel(columns, rows=len(names) * _PICTURES,
                          names=names * _PICTURES)


def run(checkpoint: str, name: str, out: pathlib.Path) -> None:
  """See the top of the file.

  Raises:
    ConfigError: no such run or evaluator, a run of another task or stage.
  """
  import functools

  import jax
  from PIL import Image

  from pp import splits
  from uvim.learn import sharding
  config = evaluate.read_config(checkpoint, None)
  block: EvalConfig = evaluate.choose(config, [name])[0]
  if block.type != "coco_panoptic" or config.oracle is None:
    raise ConfigError(f"--checkpoint {checkpoint} --evaluator {name}: it must "
                      "be a coco_panoptic evaluator of a stage II run.")
  stage, variables = evaluate.load_stage(checkpoint, config)
  side = math.isqrt(stage.oracle.model.code_len)
  region = 0, 0, side, side // 2
  source = splits.open_split(block.dataset, block.split, block.data_dir)
  batches = source.eval_batches(
      source.make_preprocess(block.pp, config.pp_modules),
      batch_size=block.batch_size)
  mesh = sharding.make_mesh((("data", -1),))
  variables = jax.device_put(variables, sharding.replicated(mesh))
  predict = make_predict(stage, block.pred_kw, {
      name: (mask, region) for name, mask in MASKS.items()})
  found = measure(common.predict_all(
      predict, variables, batches.start(),
      put=functools.partial(sharding.shard_batch, mesh=mesh)),
                  source, region[3] / side)
  out.mkdir(parents=True, exist_ok=True)
  Image.fromarray(picture(stage, variables, next(batches.start()),
                          block.pred_kw, side)).save(out / "masking.png")
  new = out / f".{MASKING_FILE}"
  new.write_text(json.dumps(found, indent=1) + "\n")
  os.replace(new, out / MASKING_FILE)  # Last: it says that all is there.


def main(argv: Sequence[str] | None = None) -> int:
  """0, or 2 after a mistake that the message explains."""
  from absl import logging
  parser = argparse.ArgumentParser(
      prog="python -m tools.sweeps.masking", description=__doc__,
      allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  for flag in ("--checkpoint", "--evaluator", "--out"):
    parser.add_argument(flag, required=True)
  args = parser.parse_args(argv)
  quiet_tensorflow()
  logging.set_verbosity(logging.ERROR)  # TFDS warns of its own calls.
  try:
    run(args.checkpoint, args.evaluator, pathlib.Path(args.out))
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    return EXIT_BAD_INPUT
  return 0


if __name__ == "__main__":
  sys.exit(main())
