"""What stands behind a PQ: categories, confusions, best and worst images.

Suffixes: H W pixels · K categories · C categories and void, which has index 0.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluators import pq

Array = np.ndarray
Content = dict[str, Any]

# Images of each kind, best and worst.
_NUM_IMAGES = 3
_NUM_CONFUSIONS = 8


class Scored(NamedTuple):
  """An image, what was predicted for it, and how well.

  Attributes:
    image_id: of the data set.
    quality: PQ of its segments, whatever their categories, in 0..1.
    truth: what the evaluator scores with.
    panoptic: the prediction, int [h,w,2].
  """
  image_id: int
  quality: float
  truth: Any
  panoptic: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Details:
  """Sums over images; those of two sets of images add up with `+`.

  Attributes:
    num_images: how many were seen.
    areas_CC: f64, pixels by true and by predicted category.
    num_segments_K: int64, predicted segments.
    num_images_K: int64, images with such a segment.
    thing_shares: the share of its image of each true thing.
    best: the images of the highest quality.
    worst: those of the lowest.
  """
  num_images: int
  areas_CC: Array
  num_segments_K: Array
  num_images_K: Array
  thing_shares: tuple[float, ...] = ()
  best: tuple[Scored, ...] = ()
  worst: tuple[Scored, ...] = ()

  @classmethod
  def zeros(cls, num_categories: int) -> "Details":
    """The details of no image."""
    num_classes = num_categories + 1
    return cls(
        num_images=0,
        areas_CC=np.zeros((num_classes, num_classes)),
        num_segments_K=np.zeros(num_categories, np.int64),
        num_images_K=np.zeros(num_categories, np.int64))

  def __add__(self, other: "Details") -> "Details":
    best = sorted(
        self.best + other.best, key=lambda scored: -scored.quality)
    worst = sorted(
        self.worst + other.worst, key=lambda scored: scored.quality)
    return Details(
        self.num_images + other.num_images,
        self.areas_CC + other.areas_CC,
        self.num_segments_K + other.num_segments_K,
        self.num_images_K + other.num_images_K,
        self.thing_shares + other.thing_shares,
        tuple(best[:_NUM_IMAGES]),
        tuple(worst[:_NUM_IMAGES]))


def of_image(
    shared: pq.Shared,
    stat: pq.PQStat,
    image_id: int,
    truth: Any,
    panoptic: Array,
) -> Details:
  """The details of one image.

  Args:
    shared: what its segments share.
    stat: the statistics of the image.
    image_id: of the data set.
    truth: is kept with the best and the worst images.
    panoptic: the prediction, int [h,w,2]; kept as well.
  """
  num_categories = len(stat.categories)
  num_segments_K = np.bincount(shared.category_P, minlength=num_categories)
  quality = _quality(stat)
  scored = ()
  if quality is not None:
    # A copy: the prediction is a part of its batch, which must not stay.
    scored = (Scored(image_id, quality, truth, np.array(panoptic)),)
  return Details(
      num_images=1,
      areas_CC=_areas(shared, num_categories),
      num_segments_K=num_segments_K,
      num_images_K=(num_segments_K > 0).astype(np.int64),
      thing_shares=_thing_shares(shared, stat.categories),
      best=scored,
      worst=scored)


def _quality(stat: pq.PQStat) -> float | None:
  """PQ over all segments of an image; None if it has none that count."""
  false = stat.fp.sum() + stat.fn.sum()
  weight = stat.tp.sum() + 0.5 * false
  return float(stat.iou.sum() / weight) if weight else None


def _areas(shared: pq.Shared, num_categories: int) -> Array:
  """f64 [C,C], pixels by true and by predicted category."""
  # Crowds, and what is in no list, say nothing of the categories: as void.
  class_G = np.where(shared.is_crowd_G, 0, shared.category_G + 1)
  rows = np.concatenate([[0], class_G, [0]])
  columns = np.concatenate([[0], shared.category_P + 1, [0]])
  num_classes = num_categories + 1
  areas_CC = np.zeros((num_classes, num_classes))
  np.add.at(areas_CC, (rows[:, None], columns[None, :]), shared.overlap)
  return areas_CC


def _thing_shares(shared: pq.Shared, categories: Sequence[Any]
                  ) -> tuple[float, ...]:
  """The share of the image of each true thing, without crowds."""
  is_thing_K = np.array([bool(item.isthing) for item in categories])
  is_thing_G = is_thing_K[shared.category_G] & ~shared.is_crowd_G
  area_by_place = shared.overlap.sum(1)
  share_G = area_by_place[1:-1] / shared.overlap.sum()
  return tuple(share_G[is_thing_G].tolist())


def two_channels(ids_HW: Array, segments: Any, categories: Sequence[Any]
                 ) -> Array:
  """A truth as a task predicts it: int32 [H,W,2]; crowds are void.

  Args:
    ids_HW: 0 is void, i + 1 is segment i, and one more is in no list.
    segments: 'id', 'category_id' and 'iscrowd' of each.
    categories: class c is categories[c - 1].
  """
  class_of_id = {}
  for number, category in enumerate(categories, start=1):
    class_of_id[category.id] = number
  class_of_place = np.zeros(len(segments) + 2, np.int32)
  for segment in segments:
    if not segment["iscrowd"]:
      place = segment["id"]
      class_of_place[place] = class_of_id[segment["category_id"]]
  return np.stack([class_of_place[ids_HW], ids_HW], axis=-1, dtype=np.int32)


# ── As JSON ─────────────────────────────────────────────────────────────────


def as_json(stat: pq.PQStat, details: Details) -> Content:
  """What a report shows: plain JSON, qualities and shares in percent.

  Returns:
    "num_images"; "categories", "confusions" and "images": lists of objects,
    see the functions below; "thing_share": the median share of its image that
    a true thing has, or None.
  """
  thing_share = None
  if details.thing_shares:
    thing_share = 100 * float(np.median(details.thing_shares))
  return {
      "num_images": details.num_images,
      "categories": _categories(stat, details),
      "confusions": _confusions(stat.categories, details.areas_CC),
      "thing_share": thing_share,
      "images": _images(details),
  }


def _categories(stat: pq.PQStat, details: Details) -> list[Content]:
  """Those that occur: "name", "isthing", "pq", "sq", "rq", counts, "pieces".

  The counts are "tp" (found), "fp" (false) and "fn" (missed); "pieces" is how
  many segments of the category are predicted in an image that has any.
  """
  rows = []
  result = stat.result()["per_class"]
  pieces_K = details.num_segments_K / np.maximum(details.num_images_K, 1)
  for category, pieces in zip(stat.categories, pieces_K, strict=True):
    found = result[int(category.id)]
    counts = {name: found[name] for name in ("tp", "fp", "fn")}
    if not any(counts.values()):
      continue
    qualities = {name: 100 * found[name] for name in ("pq", "sq", "rq")}
    rows.append({
        "name": category.name,
        "isthing": bool(category.isthing),
        **qualities,
        **counts,
        "pieces": float(pieces),
    })
  return rows


def _confusions(categories: Sequence[Any], areas_CC: Array) -> list[Content]:
  """The largest: "truth", "prediction", and their "share" of that truth.

  The prediction may be None: void.
  """
  names = [None, *(category.name for category in categories)]
  wrong_CC = areas_CC.copy()
  np.fill_diagonal(wrong_CC, 0)
  # What is predicted on void is no mistake.
  wrong_CC[0] = 0
  area_C = areas_CC.sum(1)
  order = np.argsort(wrong_CC, axis=None)[::-1]
  confusions = []
  for place in order[:_NUM_CONFUSIONS].tolist():
    row, column = divmod(place, len(names))
    area = wrong_CC[row, column]
    if area == 0:
      break
    confusions.append({
        "truth": names[row],
        "prediction": names[column],
        "share": 100 * float(area / area_C[row]),
    })
  return confusions


def _images(details: Details) -> list[Content]:
  """The worst images, then the best: "id", "pq" and "kind"."""
  images = []
  for kind, scored_images in (("worst", details.worst), ("best", details.best)):
    for scored in scored_images:
      images.append({
          "id": scored.image_id, "pq": 100 * scored.quality, "kind": kind})
  return images
