"""Panoptic quality, equal to panopticapi's numbers, without its loops.

An id map is run-length coded together with its counterpart, so the work is on
a few thousand runs instead of H*W pixels, and never in the number of masks.
Kirillov et al. 2019, arXiv:1801.00868; cocodataset/panopticapi.

Suffixes: H W pixels · R runs · G ground truth segments · P predicted segments
· K categories.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uvim.registry import ConfigError

Ids = Sequence[int] | np.ndarray

VOID = 0
_TABLE = 2**16  # Entries of the largest table of ids.
_GROUPS = {"All": (True, False), "Things": (True,), "Stuff": (False,)}


def run_starts(*maps_HW: np.ndarray) -> np.ndarray:
  """Flat positions where any of the maps takes a new value; the first is 0."""
  flat, *others = [m.ravel() for m in maps_HW]
  change = np.zeros(-(-flat.size // 8) * 8, bool)
  change[:1] = True
  inner = change[1:flat.size]
  np.not_equal(flat[1:], flat[:-1], out=inner)
  for other in others:
    inner |= other[1:] != other[:-1]
  # As np.flatnonzero(change), in half the time: most words are empty.
  words = change.view(np.uint64)
  busy = np.flatnonzero(words != 0)
  inside = np.flatnonzero(words[busy].view(bool))
  return busy[inside >> 3] * 8 + (inside & 7)


def run_lengths(starts: np.ndarray, size: int) -> np.ndarray:
  """Pixels of each run of a map of `size` pixels."""
  ends = np.empty_like(starts)
  ends[:-1], ends[-1:] = starts[1:], size
  return ends - starts


def unique_ids(ids_HW: np.ndarray) -> np.ndarray:
  """np.unique, but sorting one id per run."""
  return np.unique(ids_HW.ravel()[run_starts(ids_HW)])


def index_map(ids_HW: np.ndarray, known: Ids) -> np.ndarray:
  """Ids by their place in `known`: uint16 [H,W].

  0 stays 0, known[i] becomes i+1, any other id len(known)+1.
  """
  starts = run_starts(ids_HW)
  lengths = run_lengths(starts, ids_HW.size)
  places = _places(ids_HW.ravel()[starts], known).astype(np.uint16)
  return np.repeat(places, lengths).reshape(ids_HW.shape)


def _places(ids_R: np.ndarray, known: Ids) -> np.ndarray:
  """As `index_map`, for any array of ids."""
  known = np.asarray(known, np.int64)
  # An image's own numbering is small: looking up beats searching.
  low = min(ids_R.min(initial=0), known.min(initial=0))
  high = max(ids_R.max(initial=0), known.max(initial=0))
  if low >= 0 and high < _TABLE:
    table = np.full(int(high) + 1, len(known) + 1, np.int64)
    table[known[::-1]] = np.arange(len(known), 0, -1)  # The first of a name.
    table[VOID] = 0
    return table[ids_R]
  # A guard that equals no id, so that searchsorted never points outside.
  order = np.append(np.argsort(known, kind="stable"), len(known))
  known = np.append(known, -1)
  slot = np.searchsorted(known[order[:-1]], ids_R)
  place = order[slot]
  place = np.where(known[place] == ids_R, place, len(known) - 1)
  return np.where(ids_R == VOID, 0, place + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class PQStat:
  """Sums per category; those of two sets of images add up with `+`.

  Attributes:
    categories: rows with .id, .name, .isthing.
    iou: f64 [K], sum of the IoU of the matched pairs.
    tp, fp, fn: int64 [K].
  """

  categories: tuple[Any, ...]
  iou: np.ndarray
  tp: np.ndarray
  fp: np.ndarray
  fn: np.ndarray

  @classmethod
  def zeros(cls, categories: Sequence[Any]) -> "PQStat":
    """The statistics of no image."""
    k = len(categories)
    return cls(tuple(categories), np.zeros(k),
               *(np.zeros(k, np.int64) for _ in range(3)))

  def __add__(self, other: "PQStat") -> "PQStat":
    return PQStat(self.categories, self.iou + other.iou, self.tp + other.tp,
                  self.fp + other.fp, self.fn + other.fn)

  def result(self) -> dict[str, Any]:
    """Fractions of 1 as plain numbers, ready for JSON.

    Returns:
      'All', 'Things', 'Stuff' -> {'pq', 'sq', 'rq', 'n'}, the mean over the n
      categories that occur in truth or prediction (0 where none does);
      'per_class' -> category id -> {'name', 'pq', 'sq', 'rq', 'iou', 'tp',
      'fp', 'fn'} for all categories.
    """
    weight = self.tp + 0.5 * self.fp + 0.5 * self.fn
    seen = weight > 0
    # Where nothing was seen the numerators are 0 too, so any divisor does.
    values = {
        "pq": self.iou / np.where(seen, weight, 1),
        "sq": self.iou / np.maximum(self.tp, 1),
        "rq": self.tp / np.where(seen, weight, 1),
    }
    things = np.array([bool(c.isthing) for c in self.categories], bool)
    out = {}
    for group, kinds in _GROUPS.items():
      pick = seen & np.isin(things, kinds)
      n = int(pick.sum())
      out[group] = {k: float(v[pick].sum() / max(n, 1))
                    for k, v in values.items()} | {"n": n}
    out["per_class"] = {
        int(c.id): {"name": c.name}
        | {k: float(v[i]) for k, v in values.items()}
        | {"iou": float(self.iou[i])}
        | {k: int(getattr(self, k)[i]) for k in ("tp", "fp", "fn")}
        for i, c in enumerate(self.categories)
    }
    return out


def pq_image(gt_ids: np.ndarray, gt_segments: Sequence[Mapping[str, Any]],
             pred_ids: np.ndarray, pred_segments: Sequence[Mapping[str, Any]],
             *, categories: Sequence[Any]) -> PQStat:
  """The statistics of one image.

  A pair of one category with IoU above 1/2 matches; the part of a prediction
  on void leaves the union. Unmatched predictions that lie by more than half
  on void, or on the crowd region of their category, are not counted; crowd
  regions never match and are never missed. A truth id that is not listed is
  neither void nor a segment. Areas are counted in the map (the official code
  believes the file's 'area').

  Args:
    gt_ids: integers [H,W], 0 is void.
    gt_segments: 'id', 'category_id' and 'iscrowd' of each true segment.
    pred_ids: as gt_ids.
    pred_segments: 'id' and 'category_id' of each predicted segment.
    categories: rows with .id, .name, .isthing.

  Raises:
    ConfigError: maps of different size, a category that is not in the list,
      or a predicted map and its segments that contradict each other.
  """
  if gt_ids.shape != pred_ids.shape:
    raise ConfigError(f"Panoptic maps differ in size: truth {gt_ids.shape}, "
                      f"prediction {pred_ids.shape}.")
  overlap = _overlaps(gt_ids, [s["id"] for s in gt_segments],
                      pred_ids, [s["id"] for s in pred_segments])
  _check_prediction(overlap, pred_segments)
  place = {c.id: i for i, c in enumerate(categories)}
  kind_G = _category_places(gt_segments, place, "truth")
  kind_P = _category_places(pred_segments, place, "prediction")
  crowd_G = np.array([bool(s.get("iscrowd", 0)) for s in gt_segments], bool)

  iou_GP = _iou(overlap) * (kind_G[:, None] == kind_P) * ~crowd_G[:, None]
  match_GP = iou_GP > 0.5  # at most one per row and column
  missed_G = ~match_GP.any(1) & ~crowd_G
  false_P = ~match_GP.any(0) & ~_ignored(overlap, kind_G, crowd_G, kind_P)

  k = len(categories)
  g, p = np.nonzero(match_GP)
  return PQStat(
      tuple(categories),
      np.bincount(kind_G[g], weights=iou_GP[g, p], minlength=k),
      *(np.bincount(x, minlength=k)
        for x in (kind_G[g], kind_P[false_P], kind_G[missed_G])))


def _overlaps(gt_ids, gt_known, pred_ids, pred_known) -> np.ndarray:
  """Pixel counts f64 [1+G+1, 1+P+1]: void first, ids in no list last."""
  starts = run_starts(gt_ids, pred_ids)
  lengths = run_lengths(starts, gt_ids.size)
  shape = len(gt_known) + 2, len(pred_known) + 2
  cell = (_places(gt_ids.ravel()[starts], gt_known) * shape[1]
          + _places(pred_ids.ravel()[starts], pred_known))
  counts = np.bincount(cell, weights=lengths, minlength=shape[0] * shape[1])
  return counts.reshape(shape)


def _check_prediction(overlap, pred_segments):
  """The predicted map and its list of segments must name the same ids."""
  area_P = overlap.sum(0)[1:]
  if area_P[-1]:
    raise ConfigError(f"{int(area_P[-1])} predicted pixels have an id that is "
                      "not among the predicted segments.")
  empty = np.flatnonzero(area_P[:-1] == 0)
  if len(empty):
    raise ConfigError("Predicted segments without a pixel: "
                      f"{[int(pred_segments[i]['id']) for i in empty]}.")


def _category_places(segments, place, what) -> np.ndarray:
  """Position in the category list of each segment: int64."""
  try:
    return np.array([place[s["category_id"]] for s in segments], np.int64)
  except KeyError as error:
    raise ConfigError(f"Category id {error.args[0]} of the {what} is not in "
                      f"the category list {sorted(place)}.") from None


def _iou(overlap) -> np.ndarray:
  """f64 [G,P]; 0 where the two do not touch."""
  inter_GP = overlap[1:-1, 1:-1]
  area_G1 = overlap.sum(1)[1:-1, None]
  counted_P = overlap[1:, 1:-1].sum(0)  # without the pixels on void
  union_GP = area_G1 + counted_P - inter_GP
  return inter_GP / np.maximum(union_GP, 1)


def _ignored(overlap, kind_G, crowd_G, kind_P) -> np.ndarray:
  """Bool [P]: lies by more than half on void or its category's crowd region."""
  # One crowd region per category counts, the last: as the official code does.
  row = {int(kind_G[g]): g + 1 for g in np.flatnonzero(crowd_G)}
  free_P = overlap[0, 1:-1].copy()
  for kind, g in row.items():
    free_P += np.where(kind_P == kind, overlap[g, 1:-1], 0)
  return free_P / np.maximum(overlap.sum(0)[1:-1], 1) > 0.5
