"""Panoptic quality, equal to panopticapi's numbers, without its loops.

A run is a row of neighboring pixels with the same ids in truth and prediction.
Counting runs and not pixels makes a few thousand items out of H*W. The work
does not grow with the number of masks either.
Kirillov et al. 2019, arXiv:1801.00868; cocodataset/panopticapi.

Suffixes: H W pixels · R runs · G ground truth segments · P predicted segments
· K categories. A segment's *place* is its index in a list of segments plus 1;
place 0 is void, and the place after the last is that of ids in no list.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from uvim.registry import ConfigError

Array = np.ndarray
Ids = Sequence[int] | Array
Categories = Sequence[Any]  # Rows with .id, .name, .isthing.
Segments = Sequence[Mapping[str, Any]]
Qualities = Mapping[str, Array]  # 'pq', 'sq', 'rq' → f64 [K].
Result = dict[str, Any]

VOID = 0
_MAX_TABLE_SIZE = 2**16  # Entries of the largest table of ids.
_WORD_BYTES = 8
# Group → the values of `isthing` of its categories.
_GROUPS = {"All": (True, False), "Things": (True,), "Stuff": (False,)}


def run_starts(*maps_HW: Array) -> Array:
  """Flat positions where any of the maps takes a new value; the first is 0."""
  size = maps_HW[0].size
  # Padded to whole words, for `_true_positions`.
  num_words = -(-size // _WORD_BYTES)
  is_start = np.zeros(num_words * _WORD_BYTES, bool)
  is_start[:1] = True
  # A view: what changes it changes `is_start`.
  is_later_start = is_start[1:size]
  for ids_HW in maps_HW:
    flat = ids_HW.ravel()
    is_later_start |= flat[1:] != flat[:-1]
  return _true_positions(is_start)


def _true_positions(flags: Array) -> Array:
  """As np.flatnonzero, in half the time where few flags are set.

  Args:
    flags: bool, a whole number of words long.
  """
  # Most words are empty, and eight flags are compared at once.
  words = flags.view(np.uint64)
  busy_words = np.flatnonzero(words != 0)
  busy_flags = words[busy_words].view(bool)
  positions = np.flatnonzero(busy_flags)
  word, byte = np.divmod(positions, _WORD_BYTES)
  first_byte = busy_words[word] * _WORD_BYTES
  return first_byte + byte


def run_lengths(starts: Array, size: int) -> Array:
  """Pixels of each run of a map of `size` pixels."""
  ends = np.empty_like(starts)
  ends[:-1] = starts[1:]
  # A slice, so that an empty map raises no error.
  ends[-1:] = size
  return ends - starts


def unique_ids(ids_HW: Array) -> Array:
  """np.unique, but sorting one id per run."""
  starts = run_starts(ids_HW)
  ids_R = ids_HW.ravel()[starts]
  return np.unique(ids_R)


def index_map(ids_HW: Array, known: Ids) -> Array:
  """Ids by their place in `known`: uint16 [H,W].

  0 stays 0, known[i] becomes i+1, any other id len(known)+1.
  """
  starts = run_starts(ids_HW)
  lengths = run_lengths(starts, ids_HW.size)
  ids_R = ids_HW.ravel()[starts]
  places_R = _places(ids_R, known)
  places_R = places_R.astype(np.uint16)
  flat = np.repeat(places_R, lengths)
  return flat.reshape(ids_HW.shape)


def _places(ids_R: Array, known: Ids) -> Array:
  """As `index_map`, for any array of ids: int64 [R]."""
  known = np.asarray(known, np.int64)
  lowest_id = ids_R.min(initial=0)
  highest_id = ids_R.max(initial=0)
  lowest_known = known.min(initial=0)
  highest_known = known.max(initial=0)
  lowest = min(lowest_id, lowest_known)
  highest = max(highest_id, highest_known)
  # An image's own numbering is small: looking up is faster than searching.
  if lowest >= 0 and highest < _MAX_TABLE_SIZE:
    return _places_by_table(ids_R, known, int(highest))
  return _places_by_search(ids_R, known)


def _places_by_table(ids_R: Array, known: Array, highest: int
                     ) -> Array:
  """`_places` of ids in 0..highest."""
  num_known = len(known)
  table = np.full(highest + 1, num_known + 1, np.int64)
  # Backwards, so that of equal ids the first one counts.
  backwards = known[::-1]
  table[backwards] = np.arange(num_known, 0, -1)
  table[VOID] = 0
  return table[ids_R]


def _places_by_search(ids_R: Array, known: Array) -> Array:
  """`_places` of any ids."""
  num_known = len(known)
  order = np.argsort(known, kind="stable")
  sorted_known = known[order]
  slot_R = np.searchsorted(sorted_known, ids_R)
  # A guard at the end that equals no id: the search may point past the last.
  order = np.append(order, num_known)
  known = np.append(known, -1)
  # `order` leads back from sorted places to those in the list.
  index_R = order[slot_R]
  # The search finds the nearest id, which need not be the same.
  is_known_R = known[index_R] == ids_R
  index_R = np.where(is_known_R, index_R, num_known)
  is_void_R = ids_R == VOID
  return np.where(is_void_R, 0, index_R + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class PQStat:
  """Sums per category; those of two sets of images add up with `+`.

  Attributes:
    categories: rows with .id, .name, .isthing.
    iou: f64 [K], sum of the IoU of the matched pairs.
    tp: int64 [K], number of matched pairs.
    fp: int64 [K], number of predicted segments without a match.
    fn: int64 [K], number of true segments without a match.
  """

  categories: tuple[Any, ...]
  iou: Array
  tp: Array
  fp: Array
  fn: Array

  @classmethod
  def zeros(cls, categories: Categories) -> "PQStat":
    """The statistics of no image."""
    num_categories = len(categories)
    return cls(
        tuple(categories),
        iou=np.zeros(num_categories),
        tp=np.zeros(num_categories, np.int64),
        fp=np.zeros(num_categories, np.int64),
        fn=np.zeros(num_categories, np.int64))

  def __add__(self, other: "PQStat") -> "PQStat":
    return PQStat(
        self.categories,
        iou=self.iou + other.iou,
        tp=self.tp + other.tp,
        fp=self.fp + other.fp,
        fn=self.fn + other.fn)

  def result(self) -> Result:
    """Fractions of 1 as plain numbers, ready for JSON.

    Returns:
      'All', 'Things', 'Stuff' → {'pq', 'sq', 'rq', 'n'}, the mean over the n
      categories that occur in truth or prediction (0 where none does);
      'per_class' → category id → {'name', 'pq', 'sq', 'rq', 'iou', 'tp',
      'fp', 'fn'} for all categories.
    """
    weight_K = self.tp + 0.5 * self.fp + 0.5 * self.fn
    occurs_K = weight_K > 0
    # Where a category does not occur, the numerators are 0 too. Any divisor
    # but 0 will do there.
    divisor_K = np.where(occurs_K, weight_K, 1)
    qualities = {
        "pq": self.iou / divisor_K,
        "sq": self.iou / np.maximum(self.tp, 1),
        "rq": self.tp / divisor_K,
    }
    is_thing = [bool(category.isthing) for category in self.categories]
    is_thing_K = np.array(is_thing, bool)
    result = {}
    for group, kinds in _GROUPS.items():
      is_kind_K = np.isin(is_thing_K, kinds)
      result[group] = _group_means(qualities, occurs_K & is_kind_K)
    per_class = {}
    for index, category in enumerate(self.categories):
      category_id = int(category.id)
      per_class[category_id] = self._category_result(index, qualities)
    result["per_class"] = per_class
    return result

  def _category_result(self, index: int, qualities: Qualities) -> Result:
    """One entry of 'per_class', of the category at this index."""
    result = {"name": self.categories[index].name}
    for name, values_K in qualities.items():
      result[name] = float(values_K[index])
    result["iou"] = float(self.iou[index])
    result["tp"] = int(self.tp[index])
    result["fp"] = int(self.fp[index])
    result["fn"] = int(self.fn[index])
    return result


def _group_means(qualities: Qualities, in_group_K: Array) -> Result:
  """The means over some categories, and 'n', how many they are."""
  num_categories = int(in_group_K.sum())
  # A group without categories has sums of 0.
  divisor = max(num_categories, 1)
  means = {}
  for name, values_K in qualities.items():
    total = values_K[in_group_K].sum()
    means[name] = float(total / divisor)
  means["n"] = num_categories
  return means


def pq_image(
    gt_ids: Array,
    gt_segments: Segments,
    pred_ids: Array,
    pred_segments: Segments,
    *,
    categories: Categories,
) -> PQStat:
  """The statistics of one image.

  A pair of one category with IoU above 1/2 matches. The part of a prediction
  on void leaves the union. An unmatched prediction is not counted if more
  than half of it lies on void or on the crowd region of its category. Crowd
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
  shared = share(
      gt_ids, gt_segments, pred_ids, pred_segments, categories=categories)
  return count(shared, categories)


class Shared(NamedTuple):
  """What the true segments of an image share with the predicted ones.

  Attributes:
    overlap: pixels of each pair, f64 [1+G+1, 1+P+1], by their places.
    category_G: index of the category of each true segment.
    is_crowd_G: whether it is a crowd region.
    category_P: index of the category of each predicted segment.
  """
  overlap: Array
  category_G: Array
  is_crowd_G: Array
  category_P: Array


def share(
    gt_ids: Array,
    gt_segments: Segments,
    pred_ids: Array,
    pred_segments: Segments,
    *,
    categories: Categories,
) -> Shared:
  """Overlaps and categories of the segments; arguments as of `pq_image`."""
  if gt_ids.shape != pred_ids.shape:
    raise ConfigError(f"Panoptic maps differ in size: truth {gt_ids.shape}, "
                      f"prediction {pred_ids.shape}.")
  # From here on, everything works on this small table and not on the maps.
  overlap = _overlaps(gt_ids, gt_segments, pred_ids, pred_segments)
  _check_prediction(overlap, pred_segments)
  return Shared(
      overlap,
      category_G=_category_indices(gt_segments, categories, "truth"),
      is_crowd_G=_crowd_flags(gt_segments),
      category_P=_category_indices(pred_segments, categories, "prediction"))


def count(shared: Shared, categories: Categories) -> PQStat:
  """The statistics of one image."""
  overlap, category_G, is_crowd_G, category_P = shared
  is_ignored_P = _ignored(overlap, category_G, is_crowd_G, category_P)
  # Segments match within one category, and crowd regions not at all.
  may_match_GP = category_G[:, None] == category_P
  may_match_GP &= ~is_crowd_G[:, None]
  iou_GP = np.where(may_match_GP, _iou(overlap), 0.0)
  return _count(categories, iou_GP, category_G, is_crowd_G, category_P,
                is_ignored_P)


def _count(
    categories: Categories,
    iou_GP: Array,
    category_G: Array,
    is_crowd_G: Array,
    category_P: Array,
    is_ignored_P: Array,
) -> PQStat:
  """Matches, misses and false predictions; iou_GP is 0 where none may match."""
  # Segments of one map do not overlap: at most one match per row and column.
  is_match_GP = iou_GP > 0.5
  is_matched_G = is_match_GP.any(1)
  is_matched_P = is_match_GP.any(0)
  is_missed_G = ~is_matched_G & ~is_crowd_G
  is_false_P = ~is_matched_P & ~is_ignored_P
  matched_gt, matched_pred = np.nonzero(is_match_GP)
  matched_category = category_G[matched_gt]
  matched_iou = iou_GP[matched_gt, matched_pred]

  def per_category(indices, weights=None):
    num_categories = len(categories)
    return np.bincount(indices, weights, minlength=num_categories)

  return PQStat(
      tuple(categories),
      iou=per_category(matched_category, matched_iou),
      tp=per_category(matched_category),
      fp=per_category(category_P[is_false_P]),
      fn=per_category(category_G[is_missed_G]))


def _crowd_flags(gt_segments: Segments) -> Array:
  """Bool [G]."""
  flags = [bool(segment.get("iscrowd", 0)) for segment in gt_segments]
  return np.array(flags, bool)


def _overlaps(
    gt_ids: Array,
    gt_segments: Segments,
    pred_ids: Array,
    pred_segments: Segments,
) -> Array:
  """Pixels that two segments share, f64 [1+G+1, 1+P+1], by their places."""
  starts = run_starts(gt_ids, pred_ids)
  lengths_R = run_lengths(starts, gt_ids.size)
  gt_known = [segment["id"] for segment in gt_segments]
  pred_known = [segment["id"] for segment in pred_segments]
  gt_id_R = gt_ids.ravel()[starts]
  pred_id_R = pred_ids.ravel()[starts]
  gt_place_R = _places(gt_id_R, gt_known)
  pred_place_R = _places(pred_id_R, pred_known)
  # One row and one column more for void, and one more for ids in no list.
  num_rows = len(gt_known) + 2
  num_columns = len(pred_known) + 2
  # One number for each cell of the table, so that one count fills it.
  cell_R = gt_place_R * num_columns + pred_place_R
  num_cells = num_rows * num_columns
  counts = np.bincount(cell_R, weights=lengths_R, minlength=num_cells)
  return counts.reshape(num_rows, num_columns)


def _check_prediction(overlap: Array, pred_segments: Segments) -> None:
  """The predicted map and its list of segments must name the same ids."""
  area_by_place = overlap.sum(0)
  # The last place collects ids that are in no list.
  num_unlisted = int(area_by_place[-1])
  if num_unlisted:
    raise ConfigError(f"{num_unlisted} predicted pixels have an id that is "
                      "not among the predicted segments.")
  empty = []
  areas = area_by_place[1:-1].tolist()
  for segment, area in zip(pred_segments, areas, strict=True):
    if area == 0:
      empty.append(int(segment["id"]))
  if empty:
    raise ConfigError(f"Predicted segments without a pixel: {empty}.")


def _category_indices(segments: Segments, categories: Categories, what: str
                      ) -> Array:
  """Index in the category list of each segment's category: int64."""
  index_of = {}
  for index, category in enumerate(categories):
    index_of[category.id] = index
  indices = []
  for segment in segments:
    category_id = segment["category_id"]
    if category_id not in index_of:
      raise ConfigError(f"Category id {category_id} of the {what} is not in "
                        f"the category list {sorted(index_of)}.")
    indices.append(index_of[category_id])
  return np.array(indices, np.int64)


def _iou(overlap: Array) -> Array:
  """f64 [G,P]; 0 where the two do not touch."""
  shared_GP = overlap[1:-1, 1:-1]
  gt_area_by_place = overlap.sum(1)
  gt_area_G1 = gt_area_by_place[1:-1, None]
  # Row 0 is void: what a prediction has there does not count.
  without_void = overlap[1:, 1:-1]
  pred_area_P = without_void.sum(0)
  union_GP = gt_area_G1 + pred_area_P - shared_GP
  # A listed truth without a pixel may have an empty union.
  return shared_GP / np.maximum(union_GP, 1)


def _ignored(
    overlap: Array,
    category_G: Array,
    is_crowd_G: Array,
    category_P: Array,
) -> Array:
  """Bool [P]: lies by more than half on void or its category's crowd region."""
  # One crowd region per category counts, the last: as in the official code.
  crowd_of = {}
  for crowd in np.flatnonzero(is_crowd_G):
    category = int(category_G[crowd])
    crowd_of[category] = crowd
  area_by_place = overlap.sum(0)
  area_P = area_by_place[1:-1]
  forgiven_P = overlap[VOID, 1:-1].copy()
  for category, crowd in crowd_of.items():
    on_crowd_P = overlap[crowd + 1, 1:-1]
    # Only predictions of the crowd's own category are forgiven.
    is_same_P = category_P == category
    forgiven_P += np.where(is_same_P, on_crowd_P, 0)
  share_P = forgiven_P / np.maximum(area_P, 1)
  return share_P > 0.5
