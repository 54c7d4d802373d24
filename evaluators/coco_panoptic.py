"""Panoptic quality of two-channel predictions on any COCO-format data set.

What is a predicted segment: the pixels of one (semantics, instance) pair with
semantics > 0. Semantics 0 is void. The instance id 0 is as good as any other:
the task gives (0, 0) to what it drops, so only the class can say "void" (the
released evaluation, through panopticapi's two-channel converter, does the
same). Class c becomes `categories[c - 1].id`.

Suffixes: H W pixels.
"""

import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from evaluators import common, pq
from uvim.registry import ConfigError

_SUFFIXES = {"All": "", "Things": "_things", "Stuff": "_stuff"}


class Truth(NamedTuple):
  """The ground truth of one image, small enough to keep for all of them."""
  image_id: int
  size: tuple[int, int]
  packed: bytes  # zlib of uint16 [H,W]; 0 void, i+1 segment i
  segments: tuple[dict[str, int], ...]

  def ids(self) -> np.ndarray:
    """uint16 [H,W]."""
    flat = np.frombuffer(zlib.decompress(self.packed), np.uint16)
    return flat.reshape(self.size)


def make_truth(example: dict[str, Any], categories: Sequence[Any]) -> Truth:
  """Ground truth of an example with the features of coco/2017_panoptic."""
  rgb = np.asarray(example["panoptic_image"]).astype(np.uint32)
  ids_HW = rgb[..., 0] + (rgb[..., 1] << 8) + (rgb[..., 2] << 16)
  objects = example["panoptic_objects"]
  labels, crowds = objects["label"], objects["is_crowd"]
  index_HW = pq.index_map(ids_HW, objects["id"])
  # Renumbered 1, 2, … the map packs to a few kilobytes.
  segments = tuple(
      dict(id=i + 1, category_id=categories[int(label)].id,
           iscrowd=int(crowd))
      for i, (label, crowd) in enumerate(zip(labels, crowds, strict=True)))
  return Truth(int(example["image/id"]), ids_HW.shape,
               zlib.compress(index_HW.tobytes(), 1), segments)


def make_segments(panoptic: np.ndarray, categories: Sequence[Any], *,
                  merge_stuff: bool = False
                  ) -> tuple[np.ndarray, list[dict[str, int]]]:
  """Ids and segments, as `pq.pq_image` takes them, of a two-channel map.

  Args:
    panoptic: int [H,W,2], semantics and instance.
    categories: semantics c stands for categories[c - 1].
    merge_stuff: one segment per stuff class, whatever its instance ids.
  """
  sem_HW, ins_HW = np.moveaxis(panoptic.astype(np.int32, copy=False), -1, 0)
  if sem_HW.min() < 0 or sem_HW.max() > len(categories) or ins_HW.min() < 0:
    raise ConfigError(
        f"Predicted semantics lie in {sem_HW.min()}..{sem_HW.max()} and "
        f"instances start at {ins_HW.min()}; this data set allows "
        f"0..{len(categories)} and 0.")
  if merge_stuff:
    thing = np.array([False] + [bool(c.isthing) for c in categories])
    ins_HW = ins_HW * thing[sem_HW]
  stride = int(ins_HW.max()) + 1
  ids_HW = np.where(sem_HW > 0, sem_HW * stride + ins_HW, pq.VOID)
  segments = [
      dict(id=int(i), category_id=categories[i // stride - 1].id)
      for i in pq.unique_ids(ids_HW) if i != pq.VOID]
  return ids_HW, segments


class Evaluator:
  """PQ, SQ and RQ in percent, over all, thing and stuff categories.

  Attributes:
    result: after a run, `PQStat.result()`: fractions, also per category.
  """

  def __init__(self, predictions: Callable[[Any], Iterable[dict[str, Any]]],
               source: Any, *, merge_stuff: bool = False,
               save_dir: str | None = None):
    """Decodes no truth yet: that happens once, along with the first run.

    Args:
      predictions: `predictions(variables)` gives, for each example of the
        source in its order, {'panoptic': int [h,w,2], 'image/id': int}; h and
        w may differ from the image's: the map is resized to the truth.
      source: `.num_examples`, `.categories`, `.example(index)` with the
        features of coco/2017_panoptic.
      merge_stuff: see `make_segments`.
      save_dir: where to write the predictions in the official format
        (panoptic/ID.png, panoptic.json) and results.json.
    """
    if not source.categories:
      raise ConfigError(f"{source.dataset}: coco_panoptic needs a list of "
                        "categories; this data set has none.")
    self._predictions = predictions
    self._source = source
    self._merge_stuff = merge_stuff
    self._save_dir = pathlib.Path(save_dir) if save_dir else None
    self._truths: list[Truth] = []
    self.result: dict[str, Any] | None = None

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields PQ, SQ, RQ and the same with _things and _stuff, in percent."""
    categories = self._source.categories
    stat, count, records = pq.PQStat.zeros(categories), 0, []
    for example in self._predictions(variables):
      truth = self._truth(count, example)
      count += 1
      panoptic = common.resize_nearest(example["panoptic"], truth.size)
      ids, segments = make_segments(
          panoptic, categories, merge_stuff=self._merge_stuff)
      stat = stat + pq.pq_image(truth.ids(), truth.segments, ids, segments,
                                categories=categories)
      if self._saves():
        records.append(self._save(truth.image_id, ids, segments))
    if count != self._source.num_examples:
      raise ValueError(f"{count} predictions for the "
                       f"{self._source.num_examples} examples of the split")
    self.result = stat.result()
    if self._saves():
      self._save_json("panoptic.json", {"annotations": records})
      self._save_json("results.json", self.result)
    for group, suffix in _SUFFIXES.items():
      for metric in ("pq", "sq", "rq"):
        yield metric.upper() + suffix, 100 * self.result[group][metric]

  def _truth(self, index: int, example: dict[str, Any]) -> Truth:
    if index >= self._source.num_examples:
      raise ValueError("more predictions than examples in the split: "
                       f"{self._source.num_examples}")
    if index == len(self._truths):
      self._truths.append(make_truth(
          self._source.example(index), self._source.categories))
    truth = self._truths[index]
    # The order is the contract; a slip would only show as a low score.
    if example.get("image/id", truth.image_id) != truth.image_id:
      raise ValueError(f"prediction {index} is of image {example['image/id']},"
                       f" the truth of image {truth.image_id}")
    return truth

  def _saves(self) -> bool:
    return self._save_dir is not None and jax.process_index() == 0

  def _save(self, image_id: int, ids_HW: np.ndarray,
            segments: list[dict[str, int]]) -> dict[str, Any]:
    """Writes one PNG; returns its record for the JSON."""
    from PIL import Image
    rgb = np.stack([ids_HW >> shift & 255 for shift in (0, 8, 16)], -1)
    name = f"{image_id:012d}.png"
    folder = self._save_dir / "panoptic"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb.astype(np.uint8)).save(folder / name)
    return dict(image_id=image_id, file_name=name, segments_info=segments)

  def _save_json(self, name: str, content: Any):
    self._save_dir.mkdir(parents=True, exist_ok=True)
    (self._save_dir / name).write_text(json.dumps(content, indent=1))
