"""Panoptic quality of two-channel predictions on any COCO-format data set.

What is a predicted segment: the pixels of one (semantics, instance) pair with
semantics > 0. Semantics 0 is void. The instance id 0 is as good as any other:
the task gives (0, 0) to what it drops, so only the class can say "void" (the
released evaluation, through panopticapi's two-channel converter, does the
same). Class c becomes `categories[c - 1].id`.

Suffixes: H W pixels.
"""

import contextlib
import json
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from evaluators import common, panoptic_files, pq
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
               save_dir: str | None = None, official: bool = False):
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
      official: also scores the files with the package panopticapi; these
        metrics end in _official.

    Raises:
      ConfigError: a data set without categories; `official` without the
        package.
    """
    if official:
      panoptic_files.official_code()
    if not source.categories:
      raise ConfigError(f"{source.dataset}: coco_panoptic needs a list of "
                        "categories; this data set has none.")
    self._predictions = predictions
    self._source = source
    self._merge_stuff = merge_stuff
    self._save_dir = pathlib.Path(save_dir) if save_dir else None
    self._official = official
    self._truths: dict[int, Truth] = {}
    self.result: dict[str, Any] | None = None

  def run(self, variables: Any) -> Iterator[tuple[str, float]]:
    """Yields PQ, SQ, RQ and the same with _things and _stuff, in percent."""
    with self._folder() as folder:
      stat, records = self._score(variables, folder)
      self.result = stat.result()
      if self._saves():
        _write_json(folder / "panoptic.json", {"annotations": records})
        _write_json(folder / "results.json", self.result)
      yield from _percent(self.result)
      if self._official:
        yield from _percent(self._official_result(folder, records),
                            "_official")

  def _score(self, variables: Any, folder: pathlib.Path | None
             ) -> tuple[pq.PQStat, list[dict[str, Any]]]:
    """Our statistics, and what the files written to `folder` hold."""
    categories = self._source.categories
    stat, records = pq.PQStat.zeros(categories), []
    for index, example in common.numbered(
        self._predictions(variables), self._source.num_examples):
      truth = self._truth(index)
      common.check_id(index, example, truth.image_id)
      panoptic = common.resize_nearest(example["panoptic"], truth.size)
      ids, segments = make_segments(
          panoptic, categories, merge_stuff=self._merge_stuff)
      stat = stat + pq.pq_image(truth.ids(), truth.segments, ids, segments,
                                categories=categories)
      if folder is not None:
        records.append(_write_map(
            folder / "panoptic", truth.image_id, ids, segments))
    return stat, records

  def _truth(self, index: int) -> Truth:
    if index not in self._truths:
      self._truths[index] = make_truth(
          self._source.example(index), self._source.categories)
    return self._truths[index]

  def _saves(self) -> bool:
    return self._save_dir is not None and jax.process_index() == 0

  @contextlib.contextmanager
  def _folder(self) -> Iterator[pathlib.Path | None]:
    """Where this process writes its predictions; None if it need not."""
    if self._saves():
      self._save_dir.mkdir(parents=True, exist_ok=True)
      yield self._save_dir
    elif self._official:
      with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)
    else:
      yield None

  def _official_result(self, folder: pathlib.Path,
                       records: list[dict[str, Any]]) -> dict[str, Any]:
    """What panopticapi makes of the written predictions."""
    with tempfile.TemporaryDirectory() as truth_dir:
      truth = [_write_map(pathlib.Path(truth_dir), t.image_id, t.ids(),
                          _with_areas(t)) for t in self._truths.values()]
      return panoptic_files.official_scores(
          truth, records, categories=self._source.categories,
          truth_dir=pathlib.Path(truth_dir),
          prediction_dir=folder / "panoptic")


def _percent(result: dict[str, Any], ending: str = ""
             ) -> Iterator[tuple[str, float]]:
  for group, suffix in _SUFFIXES.items():
    for metric in ("pq", "sq", "rq"):
      yield metric.upper() + suffix + ending, 100 * result[group][metric]


def _with_areas(truth: Truth) -> list[dict[str, int]]:
  """The segments as panopticapi needs them."""
  area = np.bincount(truth.ids().ravel(), minlength=len(truth.segments) + 1)
  return [{**s, "area": int(area[s["id"]])} for s in truth.segments]


def _write_map(folder: pathlib.Path, image_id: int, ids_HW: np.ndarray,
               segments: list[dict[str, int]]) -> dict[str, Any]:
  """Writes one PNG; returns its record for the JSON."""
  name = panoptic_files.write_png(folder, image_id, ids_HW)
  return dict(image_id=image_id, file_name=name, segments_info=segments)


def _write_json(path: pathlib.Path, content: Any) -> None:
  path.write_text(json.dumps(content, indent=1))
