"""Panoptic quality of two-channel predictions on any COCO-format data set.

A predicted segment is the set of pixels of one (semantics, instance) pair with
semantics > 0. Semantics 0 is void. The instance id 0 is as good as any other:
only the class can say "void", and the task gives (0, 0) to what it drops. The
released evaluation does the same; it uses panopticapi's two-channel converter.
Class c becomes `categories[c - 1].id`.

Suffixes: H W pixels · V classes, void included.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluators import base, panoptic_details, panoptic_files, pq
from uvim import fields, files, pixels, resize
from uvim.registry import ConfigError

Segments = list[dict[str, int]]

# Group of categories → how the names of its metrics end.
_ENDINGS = {"All": "", "Things": "_things", "Stuff": "_stuff"}


class PackedIds(NamedTuple):
  """A map of ids, compressed: small enough to keep for all images."""
  size: tuple[int, int]
  dtype: np.dtype
  packed: bytes

  @classmethod
  def pack(cls, ids_HW: np.ndarray) -> "PackedIds":
    """Compresses a map."""
    # The fastest level: these maps are simple.
    packed = zlib.compress(ids_HW.tobytes(), 1)
    return cls(ids_HW.shape, ids_HW.dtype, packed)

  def unpack(self) -> np.ndarray:
    """The map [H,W], read-only."""
    content = zlib.decompress(self.packed)
    flat = np.frombuffer(content, self.dtype)
    return flat.reshape(self.size)


class Truth(NamedTuple):
  """The ground truth of one image.

  Attributes:
    image_id: of the data set.
    packed_ids: uint16 [H,W]; 0 is void, i+1 is segment i.
    segments: 'id', 'category_id' and 'iscrowd' of each.
  """
  image_id: int
  packed_ids: PackedIds
  segments: Segments

  @property
  def size(self) -> tuple[int, int]:
    return self.packed_ids.size

  def ids(self) -> np.ndarray:
    """uint16 [H,W]."""
    return self.packed_ids.unpack()


def make_truth(example: base.Truth, categories: Sequence[Any]) -> Truth:
  """Ground truth of an example with the features of coco/2017_panoptic.

  Raises:
    ConfigError: it has other features, or they contradict each other.
  """
  for feature in ("panoptic_image", "panoptic_objects"):
    if feature not in example:
      raise ConfigError(
          f"coco_panoptic: this data set has no {feature!r}; it needs the "
          "features of coco/2017_panoptic.")
  ids_HW = pixels.ids_from_rgb(np.asarray(example["panoptic_image"]))
  objects = example["panoptic_objects"]
  _check_objects(objects, len(categories), example["image/id"])
  # Renumbered 1, 2, … the map packs to a few kilobytes.
  index_HW = pq.index_map(ids_HW, objects["id"])
  segments = []
  labels_and_crowds = zip(objects["label"], objects["is_crowd"], strict=True)
  for number, (label, is_crowd) in enumerate(labels_and_crowds, start=1):
    segments.append({
        "id": number,
        # The data set's labels start at 0, without void.
        "category_id": categories[int(label)].id,
        "iscrowd": int(is_crowd),
    })
  image_id = int(example["image/id"])
  return Truth(image_id, PackedIds.pack(index_HW), segments)


def _check_objects(objects: Any, num_categories: int, image_id: Any) -> None:
  """Raises a ConfigError for lists of unlike length, or an unknown label."""
  lengths = {}
  for key in ("id", "label", "is_crowd"):
    lengths[key] = len(objects[key])
  if len(set(lengths.values())) > 1:
    counted = ", ".join(f"{n} of {key!r}" for key, n in lengths.items())
    raise ConfigError(
        f"coco_panoptic: panoptic_objects of image/id {int(image_id)} has "
        f"{counted}; each object has one of each.")
  labels = np.asarray(objects["label"])
  if labels.size and (labels.min() < 0 or labels.max() >= num_categories):
    raise ConfigError(
        f"coco_panoptic: the labels of image/id {int(image_id)} lie in "
        f"{labels.min()}..{labels.max()}; this data set has categories "
        f"0..{num_categories - 1}.")


def make_segments(
    panoptic: np.ndarray,
    categories: Sequence[Any],
    *,
    merge_stuff: bool = False,
) -> tuple[np.ndarray, Segments]:
  """Ids and segments, as `pq.pq_image` takes them, of a two-channel map.

  Args:
    panoptic: int [H,W,2], semantics and instance.
    categories: semantics c stands for categories[c - 1].
    merge_stuff: one segment per stuff class, whatever its instance ids.

  Raises:
    ConfigError: semantics or instances outside of their range.
  """
  # A small unsigned type could overflow in the product with the stride.
  panoptic = panoptic.astype(np.int32, copy=False)
  semantics_HW, instances_HW = np.moveaxis(panoptic, -1, 0)
  _check_range(semantics_HW, instances_HW, len(categories))
  if merge_stuff:
    # Void is no thing.
    is_thing = [False]
    is_thing += [bool(category.isthing) for category in categories]
    is_thing_V = np.array(is_thing)
    # All pixels of a stuff class get the instance id 0.
    instances_HW = instances_HW * is_thing_V[semantics_HW]
  # Ids of pairs: an instance is smaller than the stride between classes.
  stride = int(instances_HW.max()) + 1
  pair_ids_HW = semantics_HW * stride + instances_HW
  ids_HW = np.where(semantics_HW > 0, pair_ids_HW, pq.VOID)
  segments = []
  for segment_id in pq.unique_ids(ids_HW).tolist():
    if segment_id != pq.VOID:
      semantics = segment_id // stride
      category_id = categories[semantics - 1].id
      segments.append({"id": segment_id, "category_id": category_id})
  return ids_HW, segments


def _check_range(semantics_HW: np.ndarray, instances_HW: np.ndarray,
                 num_categories: int) -> None:
  """Raises a ConfigError for numbers that stand for nothing."""
  lowest = semantics_HW.min()
  highest = semantics_HW.max()
  first_instance = instances_HW.min()
  if lowest < 0 or highest > num_categories or first_instance < 0:
    raise ConfigError(
        f"Predicted semantics lie in {lowest}..{highest} and instances start "
        f"at {first_instance}; this data set allows 0..{num_categories} and "
        "0.")


class ScoredMap(NamedTuple):
  """A prediction that will be written to a file, and its truth."""
  truth: Truth
  packed_ids: PackedIds
  segments: Segments


@dataclasses.dataclass(frozen=True)
class State:
  """What was seen.

  Attributes:
    stat: our own statistics.
    seen: what stands behind them.
    maps: the predictions in order; empty if no file will be written.
  """

  stat: pq.PQStat
  seen: panoptic_details.Details
  maps: tuple[ScoredMap, ...] = ()


class CocoPanoptic(base.Evaluator):
  """PQ, SQ and RQ in percent, over all, thing and stuff categories."""

  checks = {
      "merge_stuff": fields.BOOL,
      "save_dir": fields.optional(fields.PATH),
      "official": fields.BOOL,
  }

  def __init__(
      self,
      split: Any,
      *,
      merge_stuff: bool = False,
      save_dir: str | None = None,
      official: bool = False,
  ):
    """Decodes no truth yet: that happens once, in the first pass.

    Args:
      split: see `base.Evaluator`. It has `.categories`, and its examples have
        the features of coco/2017_panoptic.
      merge_stuff: see `make_segments`.
      save_dir: where to write the predictions in the official format
        (panoptic/ID.png, panoptic.json) and results.json.
      official: also scores the files with the package panopticapi; these
        metrics end in _official.

    Raises:
      ConfigError: a data set without categories; `official` without the
        package.
    """
    super().__init__(split)
    fields.check_options(
        type(self), merge_stuff=merge_stuff, official=official)
    if official:
      # Now, and not after an hour of predictions.
      panoptic_files.official_code()
    if not split.categories:
      raise ConfigError(f"{split.dataset}: coco_panoptic needs a list of "
                        "categories; this data set has none.")
    self._merge_stuff = merge_stuff
    self._save_dir = pathlib.Path(save_dir) if save_dir else None
    self._official = official
    self._truths: dict[int, Truth] = {}

  @classmethod
  def risks(cls, options: Mapping[str, Any]) -> list[str]:
    """See the base class."""
    return ["save_dir"] if options.get("save_dir") else []

  def read_truth(self, index: int) -> dict[str, Any]:
    """{'image/id', 'panoptic': Truth}; decoded once for all passes."""
    # A PNG is slow to decode, and training evaluates many times.
    if index not in self._truths:
      example = self.split.example(index)
      self._truths[index] = make_truth(example, self.split.categories)
    truth = self._truths[index]
    return {"image/id": truth.image_id, "panoptic": truth}

  def truth_problem(self, truth: base.Truth) -> str:
    for segment in truth["panoptic"].segments:
      if not segment["iscrowd"]:
        return ""
    return "it has no segment but crowds."

  def initial(self) -> State:
    categories = self.split.categories
    return State(
        pq.PQStat.zeros(categories),
        panoptic_details.Details.zeros(len(categories)))

  def update(
      self,
      state: State,
      prediction: base.Prediction,
      truth: base.Truth,
  ) -> State:
    """`prediction` has 'panoptic' int [h,w,2]; it is resized to the truth."""
    true: Truth = truth["panoptic"]
    categories = self.split.categories
    # Nearest, because ids cannot be mixed.
    panoptic = resize.resize_nearest(prediction["panoptic"], true.size)
    ids_HW, segments = make_segments(
        panoptic, categories, merge_stuff=self._merge_stuff)
    shared = pq.share(
        true.ids(), true.segments, ids_HW, segments, categories=categories)
    stat = pq.count(shared, categories)
    seen = panoptic_details.of_image(
        shared, stat, true.image_id, true, prediction["panoptic"])
    # Keep a map only if a file will need it.
    maps = state.maps
    if self._needs_files():
      scored = ScoredMap(true, PackedIds.pack(ids_HW), segments)
      maps = (*maps, scored)
    return State(state.stat + stat, state.seen + seen, maps)

  def merge(self, first: State, second: State) -> State:
    return State(
        first.stat + second.stat,
        first.seen + second.seen,
        first.maps + second.maps)

  def result(self, state: State) -> dict[str, float]:
    """PQ, SQ, RQ and the same with _things and _stuff, in percent."""
    found = state.stat.result()
    metrics = _percent(found)
    if not self._needs_files():
      return metrics
    # All at the end: `panoptic.json` then tells that all maps are there.
    with self._open_folder() as folder:
      records = panoptic_files.write_maps(folder / "panoptic", state.maps)
      if self._saves():
        files.write_json(
            folder / "panoptic.json", {"annotations": records}, indent=1)
        files.write_json(folder / "results.json", found, indent=1)
      if self._official:
        # Last, because the official code changes the records.
        official = self._official_result(folder, state.maps, records)
        metrics |= _percent(official, "_official")
    return metrics

  def details(self, state: State) -> base.Details:
    """The categories, their confusions, the worst and the best images."""
    content = panoptic_details.as_json(state.stat, state.seen)
    shown = [*state.seen.worst, *state.seen.best]
    examples = [self._example(scored) for scored in shown]
    return base.Details(content, examples)

  def _example(self, scored: panoptic_details.Scored) -> base.Example:
    """An image with its truth and its prediction."""
    truth: Truth = scored.truth
    image = None
    for place, known in self._truths.items():
      if known.image_id == truth.image_id:
        # Read again: only truths are kept in memory.
        image = self.split.example(place).get("image")
    return base.Example(
        caption=f"PQ {100 * scored.quality:.0f}",
        image=image,
        truth={"panoptic": panoptic_details.two_channels(
            truth.ids(), truth.segments, self.split.categories)},
        prediction={"panoptic": scored.panoptic})

  def _needs_files(self) -> bool:
    """Whether this process writes the predictions, if only for a moment."""
    return self._official or self._saves()

  def _saves(self) -> bool:
    """Whether this process keeps the files."""
    return self._save_dir is not None and self.is_writer

  @contextlib.contextmanager
  def _open_folder(self) -> Iterator[pathlib.Path]:
    """The folder for the predictions of this process.

    It is `save_dir`, or a folder that is deleted afterwards.
    """
    if self._saves():
      yield self._save_dir
    else:
      with tempfile.TemporaryDirectory() as folder:
        yield pathlib.Path(folder)

  def _official_result(
      self,
      folder: pathlib.Path,
      maps: Sequence[ScoredMap],
      records: panoptic_files.Records,
  ) -> dict[str, Any]:
    """What panopticapi makes of the written predictions."""
    # The official code reads both sides from files.
    with tempfile.TemporaryDirectory() as truth_folder:
      truth_dir = pathlib.Path(truth_folder)
      truths = [scored.truth for scored in maps]
      truth_records = panoptic_files.write_truths(truth_dir, truths)
      return panoptic_files.official_scores(
          truth_records, records,
          categories=self.split.categories,
          truth_dir=truth_dir,
          prediction_dir=folder / "panoptic")


def _percent(result: Mapping[str, Any], ending: str = "") -> dict[str, float]:
  """The metrics of a result in fractions."""
  metrics = {}
  for group, group_ending in _ENDINGS.items():
    for metric in ("pq", "sq", "rq"):
      name = metric.upper() + group_ending + ending
      metrics[name] = 100 * result[group][metric]
  return metrics
