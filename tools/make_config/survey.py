"""What a data set holds, as far as a config depends on it.

A config is for the images to train on, so these are looked at: all of them, or
a sample that is spread over the split.

M images · S segments of all images · H W pixels of an image
"""

import dataclasses
import io
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
  # All images are alike, so the first tells the features.
  first = source.example(0)
  look = _look_of(first, source)
  looks = passes.map_in_threads(look, positions)
  looks = progress.bar(looks, total=count, label="Looking at the images",
                       unit="images")
  seen = list(looks)
  sizes_M2 = np.array([one["size"] for one in seen])
  segments = None
  depths = None
  if "labels" in seen[0]:
    segments = _sum_segments(seen, source.categories)
  if "nearest" in seen[0]:
    depths = _sum_depths(seen, f"{dataset} {splits.train}")
  seconds = _time_to_decode(source, positions[:_NUM_TIMED])
  return Facts(dataset, data_dir, splits, sizes_M2, seconds, segments, depths)


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


def _look_of(example: Mapping[str, Any], source: Source):
  """The function from a position to what its example shows.

  Raises:
    ConfigError: features that no task knows.
  """
  def look(position):
    return _look(source.example(position), position, source.categories)

  if "image" not in example:
    raise ConfigError(
        f"{source.dataset}: it has the features {', '.join(sorted(example))}; "
        "a config needs 'image', with 'panoptic_image' or 'depth' for what to "
        "predict.")
  if "panoptic_image" in example and not source.categories:
    raise ConfigError(
        f"{source.dataset}: its segments have no categories; write "
        f"categories.json into {source.folder!r}.")
  return look


def _look(example: Mapping[str, Any], position: int,
          categories: Sequence[Category]) -> dict[str, Any]:
  """What one example shows, by name."""
  file = io.BytesIO(example["image"])
  with open_image(file, f"example {position}") as image:
    found = {"size": (image.height, image.width)}
  if "panoptic_image" in example:
    return found | _look_at_segments(example, categories)
  if "depth" in example:
    return found | _look_at_depth(example["depth"])
  return found


def _look_at_segments(example: Mapping[str, Any],
                      categories: Sequence[Category]) -> dict[str, Any]:
  """Labels and areas of the segments, and which things touch their like."""
  ids_HW = pixels.ids_from_rgb(example["panoptic_image"][..., :3])
  objects = example["panoptic_objects"]
  labels = objects["label"]
  is_thing = np.array([category.isthing for category in categories], bool)
  # Ids may be large, so segments are counted by their place in the list.
  order = np.argsort(objects["id"])
  sorted_ids = objects["id"][order]
  place_HW = np.searchsorted(sorted_ids, ids_HW)
  place_HW = np.minimum(place_HW, max(0, len(labels) - 1))
  areas = np.zeros(len(labels), int)
  touching = 0
  if len(labels):
    is_known_HW = sorted_ids[place_HW] == ids_HW
    index_HW = np.where(is_known_HW, order[place_HW], -1)
    areas = np.bincount(index_HW[is_known_HW], minlength=len(labels))
    touching = _count_touching(index_HW, labels, is_thing)
  return {
      "labels": labels,
      "shares": areas / ids_HW.size,
      "is_thing": is_thing[labels],
      "num_touching": touching,
  }


def _count_touching(index_HW: np.ndarray, labels: np.ndarray,
                    is_thing: np.ndarray) -> int:
  """How many things touch, by a side of a pixel, another of their class."""
  touching = set()
  neighbors = ((index_HW[:, :-1], index_HW[:, 1:]),
               (index_HW[:-1], index_HW[1:]))
  for first, second in neighbors:
    is_border = (first != second) & (first >= 0) & (second >= 0)
    pairs = np.stack([first[is_border], second[is_border]], -1)
    for one, other in np.unique(pairs, axis=0).tolist():
      if labels[one] == labels[other] and is_thing[labels[one]]:
        touching |= {one, other}
  return len(touching)


def _look_at_depth(depth: np.ndarray) -> dict[str, Any]:
  """The range of a map of depth in metres."""
  known = depth[np.isfinite(depth) & (depth > 0)]
  if not known.size:
    return {"nearest": np.inf, "farthest": 0.0, "valid": 0.0}
  return {"nearest": float(known.min()), "farthest": float(known.max()),
          "valid": known.size / depth.size}


# ── All images together ─────────────────────────────────────────────────────


def _sum_segments(seen: Sequence[Mapping[str, Any]],
                  categories: Sequence[Category]) -> Segments:
  thing_shares = []
  covered = 0.0
  is_stuff_merged = True
  for one in seen:
    thing_shares.append(one["shares"][one["is_thing"]])
    covered += one["shares"].sum()
    stuff_labels = one["labels"][~one["is_thing"]]
    if len(np.unique(stuff_labels)) < len(stuff_labels):
      is_stuff_merged = False
  return Segments(
      categories=categories,
      counts_M=np.array([len(one["labels"]) for one in seen]),
      thing_shares_S=np.concatenate(thing_shares),
      num_touching=sum(one["num_touching"] for one in seen),
      is_stuff_merged=is_stuff_merged,
      void_share=1 - covered / len(seen))


def _sum_depths(seen: Sequence[Mapping[str, Any]], where: str) -> Depths:
  """The range of all maps.

  Raises:
    ConfigError: no pixel has a depth.
  """
  farthest = max(one["farthest"] for one in seen)
  if not farthest:
    raise ConfigError(f"{where}: no pixel of {len(seen)} images has a depth "
                      "above 0.")
  return Depths(
      nearest=min(one["nearest"] for one in seen),
      farthest=farthest,
      valid_share=float(np.mean([one["valid"] for one in seen])))


def _time_to_decode(source: Source, positions: Sequence[int]) -> float:
  """Seconds of a core to read and decode an example: the mean of a few."""
  import tensorflow as tf
  start = time.process_time()
  for position in positions:
    example = source.example(position)
    tf.io.decode_image(example["image"], channels=3, expand_animations=False)
  return (time.process_time() - start) / len(positions)
