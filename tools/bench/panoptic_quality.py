"""C6: panoptic quality of maps made from a seed.

H W image pixels
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tools.bench import made_maps, measure, naive_panoptic, rows
from tools.bench.measure import require, say
from tools.bench.rows import Row
from tools.bench.sizes import ImagesSize, Size
from uvim import categories as categories_lib
from uvim import files
from uvim.categories import Category

Segments = list[dict[str, int]]
# Group of categories → PQ as a fraction.
Scores = dict[str, float]

_GROUPS = ("All", "Things", "Stuff")
# Drawing a map is slow, so each one serves four times, mirrored.
_NUM_MIRRORED = 4
# The share of segments that the prediction gives another category.
_WRONG = 0.2


class Pair(NamedTuple):
  """Truth and prediction of an image, in the types that the evaluator has.

  Attributes:
    truth_HW: uint16; 0 is void.
    truth_segments: {"id", "category_id"} each.
    pred_HW: int32.
    pred_segments: {"id", "category_id"} each.
  """
  truth_HW: np.ndarray
  truth_segments: Segments
  pred_HW: np.ndarray
  pred_segments: Segments


def panoptic_quality(size: Size) -> Iterator[Row]:
  """Images per second; ours works in memory.

  The naive side is what the official scorer does, which knows files only. Two
  more rows compare with the same without the files, and with a library.
  """
  categories = categories_lib.coco_panoptic()
  pairs = _draw_pairs(size.pq, categories)

  def ours():
    return _our_scores(pairs, categories)

  with tempfile.TemporaryDirectory() as folder:
    others = _make_others(pathlib.Path(folder), pairs, categories)
    # Every scorer must find the same before any of them is timed.
    scores = ours()
    for variant, other in others.items():
      name = f"C6{variant}"
      _require_same(name, scores, other())
      times = measure.alternate(ours, other, repeats=size.repeats)
      yield rows.timed_row(name, times, items=len(pairs), unit="images/s")


def _our_scores(pairs: Sequence[Pair],
                categories: Sequence[Category]) -> Scores:
  from evaluators import pq
  stat = pq.PQStat.zeros(categories)
  for pair in pairs:
    stat += pq.pq_image(*pair, categories=categories)
  return _quality_of_groups(stat.result())


def _quality_of_groups(result) -> Scores:
  return {group: result[group]["pq"] for group in _GROUPS}


def _require_same(name, ours, naive):
  """Raises Disagree unless PQ is the same to 9 digits."""
  for group in _GROUPS:
    require(abs(ours[group] - naive[group]) < 1e-9,
            f"{name}: PQ {ours} against {naive}.")
  say(f"{name}: PQ {ours['All']:.6f} from both")


# ── Scorers to compare with ─────────────────────────────────────────────────


def _make_others(folder: pathlib.Path, pairs: Sequence[Pair],
                 categories: Sequence[Category]
                 ) -> dict[str, Callable[[], Scores]]:
  """Ending of the row's name → scorer; the library only if it is installed."""
  truth = [pair.truth_HW for pair in pairs]
  predictions = [pair.pred_HW for pair in pairs]
  truth_files = _write_maps(folder / "gt", truth)
  pred_files = _write_maps(folder / "pred", predictions)

  def from_files():
    def read_pairs():
      for pair, truth_file, pred_file in zip(
          pairs, truth_files, pred_files, strict=True):
        yield Pair(
            naive_panoptic.read_ids(truth_file), pair.truth_segments,
            naive_panoptic.read_ids(pred_file), pair.pred_segments)
    return naive_panoptic.panoptic_quality(read_pairs(), categories)

  # The empty ending is the row C6 itself.
  scorers = {"": from_files}
  library = _library()
  if library is not None:
    scorers[" hotcoco"] = _make_library_scorer(
        library, folder, pairs, categories)
  scorers[" in memory"] = functools.partial(
      naive_panoptic.panoptic_quality, pairs, categories)
  return scorers


def _write_maps(folder, maps) -> list[pathlib.Path]:
  """Writes panoptic PNGs, and returns their paths."""
  from evaluators import panoptic_files
  paths = []
  for index, ids_HW in enumerate(maps):
    name = panoptic_files.write_png(folder, index, ids_HW)
    paths.append(folder / name)
  return paths


def _library() -> Any | None:
  """The module hotcoco.panoptic, or None."""
  try:
    from hotcoco import panoptic
  except ImportError:
    return None
  return panoptic


def _make_library_scorer(library, folder, pairs, categories):
  """The scorer of the library, which reads files as the official one does."""
  truth = [(pair.truth_HW, pair.truth_segments) for pair in pairs]
  predictions = [(pair.pred_HW, pair.pred_segments) for pair in pairs]
  _write_description(folder / "gt.json", truth, categories)
  _write_description(folder / "pred.json", predictions, categories)

  def score():
    result = library.pq_compute(
        str(folder / "gt.json"), str(folder / "pred.json"))
    return _quality_of_groups(result)

  return score


def _write_description(path: pathlib.Path,
                       maps: Sequence[tuple[np.ndarray, Segments]],
                       categories: Sequence[Category]) -> None:
  """The official description of maps whose files `_write_maps` writes."""
  annotations = []
  images = []
  for index, (ids_HW, segments) in enumerate(maps):
    file_name = f"{index:012d}.png"
    height, width = ids_HW.shape
    annotations.append({
        "image_id": index, "file_name": file_name,
        "segments_info": _describe_segments(ids_HW, segments)})
    images.append({"id": index, "height": height, "width": width,
                   "file_name": file_name})
  names = [{"id": category.id, "name": category.name,
            "isthing": int(category.isthing)} for category in categories]
  files.write_json(path, {"annotations": annotations, "categories": names,
                          "images": images})


def _describe_segments(ids_HW, segments):
  """Segments with the fields that a COCO file has."""
  # Ids are small here, so counting needs no sort.
  area_of_id = np.bincount(ids_HW.ravel())
  described = []
  for segment in segments:
    area = int(area_of_id[segment["id"]])
    described.append(
        {**segment, "area": area, "iscrowd": 0, "bbox": [0, 0, 1, 1]})
  return described


# ── Maps ────────────────────────────────────────────────────────────────────


def _draw_pairs(size: ImagesSize,
                categories: Sequence[Category]) -> list[Pair]:
  rng = np.random.default_rng(0)
  pairs = []
  for index in range(size.num_images):
    if index % _NUM_MIRRORED == 0:
      num_segments = int(rng.integers(11, 21))
      drawn_HW = made_maps.draw_segments(rng, size.shape, num_segments)
    truth_HW = _mirror(drawn_HW, index)
    pairs.append(_draw_pair(rng, truth_HW, categories))
  return pairs


def _mirror(ids_HW, index):
  """One of the four mirrored forms of a map, in turn."""
  if index % 2 == 1:
    ids_HW = ids_HW[::-1]
  if index // 2 % 2 == 1:
    ids_HW = ids_HW[:, ::-1]
  # A copy, because a mirrored view has another layout in memory.
  return ids_HW.copy()


def _draw_pair(rng, truth_HW, categories) -> Pair:
  """A map of 0..S-1, and a prediction that is moved and partly wrong."""
  # A small shift: most segments still overlap by more than half.
  reach = truth_HW.shape[0] // 64
  shift = rng.integers(-reach, reach + 1, 2)
  pred_HW = np.roll(truth_HW, shift, axis=(0, 1))
  num_segments = truth_HW.max() + 1
  category_S = rng.integers(0, len(categories), num_segments)
  is_wrong_S = rng.random(num_segments) < _WRONG
  # The next category is a wrong one in any case.
  pred_category_S = (category_S + is_wrong_S) % len(categories)
  # Segment 0 is void in the truth; the prediction covers it.
  truth_segments = []
  for segment in range(1, num_segments):
    category = categories[category_S[segment]]
    truth_segments.append({"id": segment, "category_id": category.id})
  pred_segments = []
  for segment in np.unique(pred_HW).tolist():
    category = categories[pred_category_S[segment]]
    pred_segments.append({"id": segment + 1, "category_id": category.id})
  return Pair(truth_HW.astype(np.uint16), truth_segments,
              (pred_HW + 1).astype(np.int32), pred_segments)
