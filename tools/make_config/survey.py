"""What a data set holds, as far as a config depends on it.

A config is for the images to train on, so these are looked at: all of them, or
a sample that is spread over the split.

M images · S segments of all images · H W pixels of an image
"""

import dataclasses
import io
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pp import data_sets, sources
from pp.sources import Source
from tools import passes
from uvim import pixels, progress
from uvim.categories import Category
from uvim.opener import open_image
from uvim.registry import ConfigError

MAX_IMAGES = 2000
_TRAIN = "train"
# Names of a split to score, the best first. `test` is for the end.
_HELD_OUT = ("validation", "val", "valid", "dev", "holdout")
# Without such a split, one of so many images of `train` is scored.
_ONE_IN = 10
_NUM_TIMED = 8

PANOPTIC = "panoptic_segmentation"
SEMANTIC = "semantic_segmentation"
DEPTH = "depth"
COLORIZATION = "colorization"


@dataclasses.dataclass(frozen=True)
class Splits:
  """The examples to train on and those to score.

  Attributes:
    train: name of a split or of a part of one.
    held_out: likewise.
    num_train: its number of images.
    num_held_out: likewise.
    is_cut: whether both are parts of one split.
  """
  train: str
  held_out: str
  num_train: int
  num_held_out: int
  is_cut: bool


@dataclasses.dataclass(frozen=True)
class Segments:
  """The segments of the images.

  Attributes:
    categories: the classes, in the order of the labels.
    counts_M: segments of each image.
    thing_shares_S: the share of its image that each thing covers.
    num_touching: things that touch another thing of their class.
    is_stuff_merged: whether a class of stuff is one segment in each image.
    void_share: pixels without a segment, of all pixels.
  """
  categories: Sequence[Category]
  counts_M: np.ndarray
  thing_shares_S: np.ndarray
  num_touching: int
  is_stuff_merged: bool
  void_share: float

  @property
  def touching_share(self) -> float:
    """Of all things, those that touch another of their class."""
    return self.num_touching / max(1, len(self.thing_shares_S))


@dataclasses.dataclass(frozen=True)
class Depths:
  """The depth of the images.

  Attributes:
    nearest: in metres, of the pixels that have a depth.
    farthest: likewise.
    valid_share: these pixels, of all pixels.
  """
  nearest: float
  farthest: float
  valid_share: float


@dataclasses.dataclass(frozen=True)
class Facts:
  """What was measured in a data set.

  Attributes:
    dataset: its TFDS name.
    data_dir: TFDS's root folder as the user gave it; None: the default.
    splits: what to train on, and what to score.
    sizes_M2: height and width of the images that were looked at.
    decode_seconds: what one core needs to read and decode an example.
    segments: None where the features have none.
    depths: likewise.
  """
  dataset: str
  data_dir: str | None
  splits: Splits
  sizes_M2: np.ndarray
  decode_seconds: float
  segments: Segments | None = None
  depths: Depths | None = None

  @property
  def num_seen(self) -> int:
    """How many images were looked at."""
    return len(self.sizes_M2)


def survey(dataset: str, data_dir: str | None) -> Facts:
  """Looks at the images to train on.

  Args:
    dataset: a TFDS name that is prepared.
    data_dir: TFDS's root folder; None: the default.

  Raises:
    ConfigError: no such data set, no split 'train', features that no task
      knows, or examples that cannot be read.
  """
  splits = find_splits(dataset, data_dir)
  source = sources.make_source(dataset, splits.train, data_dir)
  last = source.num_examples - 1
  count = min(source.num_examples, MAX_IMAGES)
  positions = np.linspace(0, last, count).round().astype(int).tolist()
  # All examples have the same features, so the first tells them.
  check_features(source, source.example(0))

  def look(position):
    return look_at(source.example(position), source.categories)

  looks = passes.map_in_threads(look, positions)
  looks = list(progress.bar(
      looks, total=count, label="Looking at the images", unit="images"))
  segments = None
  depths = None
  if looks[0].segments is not None:
    segments = _sum_segments(looks, source.categories)
  elif looks[0].depths is not None:
    depths = _sum_depths(looks, f"{dataset} {splits.train}")
  return Facts(
      dataset=dataset,
      data_dir=data_dir,
      splits=splits,
      sizes_M2=np.array([one.size for one in looks]),
      decode_seconds=_time_to_decode(source, positions[:_NUM_TIMED]),
      segments=segments,
      depths=depths)


# ── Splits ──────────────────────────────────────────────────────────────────


def find_splits(dataset: str, data_dir: str | None) -> Splits:
  """What to train on and what to score.

  Raises:
    ConfigError: no such data set, or no split 'train' of two images or more.
  """
  folder = data_sets.default_data_dir(data_dir)
  builder = data_sets.open_builder(dataset, folder)
  num_examples = {}
  for name, info in builder.info.splits.items():
    num_examples[str(name)] = info.num_examples
  num_train = num_examples.get(_TRAIN, 0)
  if num_train < 2:
    there = ", ".join(f"{name} ({count})"
                      for name, count in sorted(num_examples.items()))
    raise ConfigError(
        f"{dataset}: a config needs a split 'train' of 2 images or more; there "
        f"are: {there or 'none'}. Prepare it with --split train.")
  for name in _HELD_OUT:
    if num_examples.get(name):
      return Splits(_TRAIN, name, num_train, num_examples[name], is_cut=False)
  num_held_out = max(1, num_train // _ONE_IN)
  cut = num_train - num_held_out
  return Splits(f"{_TRAIN}[:{cut}]", f"{_TRAIN}[{cut}:]", cut, num_held_out,
                is_cut=True)


# ── One image ───────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class SegmentsOfImage:
  """The segments of one image, in the order of its list.

  Attributes:
    labels_S: their classes.
    is_thing_S: whether they are things.
    shares_S: the part of the image that each covers.
    num_touching: things that touch another thing of their class.
  """
  labels_S: np.ndarray
  is_thing_S: np.ndarray
  shares_S: np.ndarray
  num_touching: int


@dataclasses.dataclass(frozen=True)
class Look:
  """What one example shows.

  Attributes:
    size: height and width.
    segments: None where the features have none.
    depths: likewise; their valid share is 0 if no pixel has a depth.
  """
  size: tuple[int, int]
  segments: SegmentsOfImage | None = None
  depths: Depths | None = None


def check_features(source: Source, example: Mapping[str, Any]) -> None:
  """Raises a ConfigError for features that no task knows."""
  if "image" not in example:
    raise ConfigError(
        f"{source.dataset}: it has the features {', '.join(sorted(example))}; "
        "a config needs 'image', with 'panoptic_image' or 'depth' for what to "
        "predict.")
  if "panoptic_image" in example and not source.categories:
    raise ConfigError(
        f"{source.dataset}: its segments have no categories; write "
        f"categories.json into {source.folder!r}.")


def look_at(example: Mapping[str, Any],
            categories: Sequence[Category]) -> Look:
  """What one example shows; its image is not decoded."""
  file = io.BytesIO(example["image"])
  with open_image(file, f"image/id {example['image/id']}") as image:
    size = (image.height, image.width)
  if "panoptic_image" in example:
    return Look(size, segments=_look_at_segments(example, categories))
  if "depth" in example:
    return Look(size, depths=_look_at_depth(example["depth"]))
  return Look(size)


def _look_at_segments(example: Mapping[str, Any],
                      categories: Sequence[Category]) -> SegmentsOfImage:
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"][..., :3])
  labels_S = example["panoptic_objects"]["label"]
  places_HW = _places(ids_HW, example["panoptic_objects"]["id"])
  is_known_HW = places_HW >= 0
  areas_S = np.bincount(places_HW[is_known_HW], minlength=len(labels_S))
  is_thing = np.array([category.isthing for category in categories], bool)
  is_thing_S = is_thing[labels_S]
  return SegmentsOfImage(
      labels_S=labels_S,
      is_thing_S=is_thing_S,
      shares_S=areas_S / ids_HW.size,
      num_touching=_count_touching(places_HW, labels_S, is_thing_S))


def _places(ids_HW: np.ndarray, ids_S: np.ndarray) -> np.ndarray:
  """The place of each pixel's segment in the list; −1 if it is not there."""
  if not len(ids_S):
    return np.full(ids_HW.shape, -1)
  order_S = np.argsort(ids_S)
  sorted_S = ids_S[order_S]
  found_HW = np.searchsorted(sorted_S, ids_HW)
  # An id above all others would lie behind the end.
  found_HW = np.minimum(found_HW, len(ids_S) - 1)
  is_known_HW = sorted_S[found_HW] == ids_HW
  return np.where(is_known_HW, order_S[found_HW], -1)


def _count_touching(places_HW: np.ndarray, labels_S: np.ndarray,
                    is_thing_S: np.ndarray) -> int:
  """How many things touch, by a side of a pixel, another of their class."""
  touching = set()
  left_and_right = (places_HW[:, :-1], places_HW[:, 1:])
  above_and_below = (places_HW[:-1], places_HW[1:])
  for first, second in (left_and_right, above_and_below):
    is_border = (first != second) & (first >= 0) & (second >= 0)
    pairs = np.stack([first[is_border], second[is_border]], -1)
    for one, other in np.unique(pairs, axis=0).tolist():
      is_same_class = labels_S[one] == labels_S[other]
      if is_same_class and is_thing_S[one]:
        touching |= {one, other}
  return len(touching)


def _look_at_depth(depth: np.ndarray) -> Depths:
  known = depth[np.isfinite(depth) & (depth > 0)]
  if not known.size:
    return Depths(math.inf, 0.0, 0.0)
  return Depths(float(known.min()), float(known.max()),
                known.size / depth.size)


# ── All images together ─────────────────────────────────────────────────────


def _sum_segments(looks: Sequence[Look], categories: Sequence[Category]
                  ) -> Segments:
  images = [look.segments for look in looks]
  thing_shares = []
  covered = 0.0
  is_stuff_merged = True
  for one in images:
    thing_shares.append(one.shares_S[one.is_thing_S])
    covered += one.shares_S.sum()
    stuff_labels = one.labels_S[~one.is_thing_S]
    if len(np.unique(stuff_labels)) < len(stuff_labels):
      is_stuff_merged = False
  return Segments(
      categories=categories,
      counts_M=np.array([len(one.labels_S) for one in images]),
      thing_shares_S=np.concatenate(thing_shares),
      num_touching=sum(one.num_touching for one in images),
      is_stuff_merged=is_stuff_merged,
      void_share=1 - covered / len(images))


def _sum_depths(looks: Sequence[Look], where: str) -> Depths:
  """The range of all maps.

  Raises:
    ConfigError: no pixel has a depth.
  """
  images = [look.depths for look in looks]
  farthest = max(one.farthest for one in images)
  if not farthest:
    raise ConfigError(f"{where}: no pixel of {len(images)} images has a depth "
                      "above 0.")
  return Depths(
      nearest=min(one.nearest for one in images),
      farthest=farthest,
      valid_share=float(np.mean([one.valid_share for one in images])))


def _time_to_decode(source: Source, positions: Sequence[int]) -> float:
  """Seconds of a core to read and decode an example: the mean of a few."""
  import tensorflow as tf
  start = time.process_time()
  for position in positions:
    example = source.example(position)
    tf.io.decode_image(example["image"], channels=3, expand_animations=False)
  return (time.process_time() - start) / len(positions)
