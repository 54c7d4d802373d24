"""`rooms`: a procedural RGB-D-panoptic data set that needs no download.

Small ray-cast rooms with the features of TFDS's coco/2017_panoptic plus depth
in metres. Made so that instances cannot be told apart pixel by pixel: most
scenes hold several things of one category in one color that overlap.
"""

import contextlib
import dataclasses
import functools
import io
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow_datasets as tfds

from pp import clip_records
from pp.builder import first_line
from pp.example_writer import ExampleWriter
from pp.rooms import worker
from pp.rooms.clips import NUM_FRAMES
from pp.rooms.kinds import FIRST_HARD_STREAM
from pp.rooms.render import render
from pp.rooms.scene import image_id
from pp.rooms.things import CATEGORIES, HARD_CATEGORIES
from uvim import finder, progress
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError, lookup

__all__ = ["Builder", "CATEGORIES", "RoomsConfig", "VERSION", "build", "render"]

VERSION = "1.1.0"

# Split → stream of scenes. Streams never share a scene, whatever the sizes.
SEEDS = {"train": 0, "holdout": 1, "validation": 2}
CLIP_SEEDS = {"train": 3, "holdout": 4, "validation": 5}
HARD_SEEDS = {split: FIRST_HARD_STREAM + seed for split, seed in SEEDS.items()}
# Config → split → number of scenes.
STILL_SIZES = {
    "default": {"train": 8192, "holdout": 512, "validation": 512},
    "tiny": {"train": 64, "holdout": 16, "validation": 16},
}
# The same of hard scenes; see `kinds`.
HARD_SIZES = {
    "hard": {"train": 8192, "holdout": 512, "validation": 512},
    "hard_tiny": {"train": 64, "holdout": 16, "validation": 16},
}
# The same of clips, each of NUM_FRAMES frames.
CLIP_SIZES = {
    "clips": {"train": 512, "holdout": 16, "validation": 32},
    "clips_tiny": {"train": 2, "holdout": 1, "validation": 1},
}
SIZES = STILL_SIZES | HARD_SIZES | CLIP_SIZES
_MAX_FRAMES = 1000  # Of a clip, for the numbers of its images.
_INFO_FILE = "dataset_info.json"


@dataclasses.dataclass(eq=False)
class RoomsConfig(tfds.core.BuilderConfig):
  """A size of the data set.

  Attributes:
    sizes: split → number of scenes.
    seeds: split → stream of its scenes.
    categories: of its segments; see `things.CATEGORIES`.
    scenes: (seed, number) → what `worker.scenes` yields.
    is_clips: whether each scene is a clip, and each example one of its frames.
  """
  sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  seeds: Mapping[str, int] = dataclasses.field(
      default_factory=lambda: dict(SEEDS))
  categories: list = dataclasses.field(
      default_factory=lambda: list(CATEGORIES))
  scenes: Callable = worker.scenes
  is_clips: bool = False


def _make_configs():
  configs = []
  for name, sizes in STILL_SIZES.items():
    configs.append(RoomsConfig(name=name, sizes=sizes))
  for name, sizes in HARD_SIZES.items():
    configs.append(RoomsConfig(
        name=name, sizes=sizes, seeds=HARD_SEEDS, categories=HARD_CATEGORIES))
  render_clips = functools.partial(worker.scenes, kind="clip")
  for name, sizes in CLIP_SIZES.items():
    configs.append(RoomsConfig(
        name=name, sizes=sizes, seeds=CLIP_SEEDS, scenes=render_clips,
        is_clips=True))
  return configs


def categories_of(config):
  """The categories of a config, by its name; those of 'default' for ''."""
  return HARD_CATEGORIES if config in HARD_SIZES else CATEGORIES


class Builder(tfds.core.GeneratorBasedBuilder):
  """TFDS builder of `rooms`.

  Config 'tiny' is the start of 'default', 'hard_tiny' that of 'hard', and
  'clips_tiny' that of 'clips'.
  """

  name = "rooms"
  VERSION = tfds.core.Version(VERSION)
  RELEASE_NOTES = {
      "1.0.0": "First scenes.",
      "1.1.0": "Larger things, for images of 48 pixels.",
  }
  BUILDER_CONFIGS = _make_configs()

  @property
  def num_examples(self):
    """How many examples all splits have together."""
    num_scenes = sum(self.builder_config.sizes.values())
    if self.builder_config.is_clips:
      return NUM_FRAMES * num_scenes
    return num_scenes

  def _info(self):
    features = _make_features(
        self.builder_config.categories, self.builder_config.is_clips)
    # The workers encode. TFDS would do it object by object in this process, and
    # most of the time of writing would go there.
    features.encode_example = lambda example: example
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=features,
        # Record i of a split is scene i of its stream. Frames of clips are in
        # the order of time.
        disable_shuffling=True)

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    generators = {}
    for split, num in self.builder_config.sizes.items():
      if self.builder_config.is_clips:
        generators[split] = self._generate_frames(split, num)
      else:
        generators[split] = self._generate_examples(split, num)
    return generators

  def _generate_examples(self, split, num):
    seed = self.builder_config.seeds[split]
    for index, scene in self._scenes(split, seed, num):
      number = image_id(seed, index)
      yield index, {
          **scene,
          "image/id": number,
          "image/filename": f"{number:012d}.jpg",
          "panoptic_image/filename": f"{number:012d}.png",
      }

  def _generate_frames(self, split, num):
    seed = self.builder_config.seeds[split]
    for index, frames in self._scenes(split, seed, num):
      for fields in frames:
        clip = fields["clip/id"]
        frame = fields["clip/frame"]
        name = f"{clip:08d}/{frame:05d}"
        # In rising order, since keys are sorted.
        key = index * NUM_FRAMES + frame
        yield key, {
            **fields,
            "image/id": clip * _MAX_FRAMES + frame,
            "image/filename": f"{name}.jpg",
            "panoptic_image/filename": f"{name}.png",
        }

  def _scenes(self, split, seed, num):
    """What `worker.scenes` yields, with a progress bar."""
    scenes = self.builder_config.scenes(seed, num)
    return progress.bar(
        scenes, total=num, label=f"rooms {split}", unit="scenes")

  def _example_writer(self):
    return ExampleWriter(self.info.file_format)


def _make_features(categories, is_clips):
  """Those of coco/2017_panoptic, and depth or the frames before."""
  label_names = [name for _, name, _ in categories]
  objects = tfds.features.Sequence({
      "id": np.int64,
      "area": np.int64,
      "bbox": tfds.features.BBoxFeature(),
      "label": tfds.features.ClassLabel(names=label_names),
      "is_crowd": np.bool_,
  })
  more = {}
  if is_clips:
    more = clip_records.make_features(label_names)
  else:
    more["depth"] = tfds.features.Tensor(
        shape=(None, None, 1), dtype=np.float32, encoding="zlib")
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "image/id": np.int64,
      "panoptic_image": tfds.features.Image(encoding_format="png"),
      "panoptic_image/filename": tfds.features.Text(),
      "panoptic_objects": objects,
      **more,
  })


def build(data_dir=None, config="default"):
  """Renders `rooms` to disk unless it is there; returns its TFDS builder.

  Of several processes that find nothing, one renders and the others wait.

  Args:
    data_dir: root folder of TFDS; None means TFDS's own default.
    config: a key of SIZES, or a RoomsConfig with another name.

  Raises:
    ConfigError: for an unknown name, a folder that holds something else, or
      scenes that cannot be rendered.
  """
  if isinstance(config, str):
    lookup(SIZES, config, "config of rooms")
  data_dir = finder.expand(data_dir) if data_dir else None
  builder = Builder(config=config, data_dir=data_dir)
  folder = builder.data_path
  # An object store has no lock files.
  is_local = "://" not in str(folder)
  if _is_there(folder):
    if is_local:
      _clean_up(folder)
    return builder
  with _alone(folder) if is_local else contextlib.nullcontext():
    # Another process may have rendered it meanwhile.
    if not _is_there(folder):
      _render(builder)
  # The first builder may have been made when nothing was there.
  return Builder(config=config, data_dir=data_dir)


def _is_there(folder):
  """Whether the data set is complete; it appears in one rename."""
  if (folder / _INFO_FILE).exists():
    return True
  if folder.exists() and any(folder.iterdir()):
    raise ConfigError(f"{folder} is there but has no {_INFO_FILE}. Delete or "
                      "move the folder; then rooms is rendered again.")
  return False


def _render(builder):
  """Renders all splits."""
  num_scenes = sum(builder.builder_config.sizes.values())
  print(f"Rendering {num_scenes} scenes to {builder.data_dir}",
        file=sys.stderr)
  # TFDS would announce a download and draw three nested bars around ours.
  tfds.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  except (OSError, MemoryError, ConfigError):
    raise
  # A worker that died, or TensorFlow's own errors of a full disk.
  except Exception as error:
    raise ConfigError(f"rooms cannot be rendered to {builder.data_dir}: "
                      f"{first_line(error)}.") from error
  finally:
    tfds.display_progress_bar(True)


# ── Of several processes, one renders ───────────────────────────────────────


def _lock_of(folder):
  # One lock for all configs: TFDS writes a file that belongs to all of them.
  return Lock(folder.parents[1] / ".render.lock", f"rooms in {folder}")


@contextlib.contextmanager
def _alone(folder):
  """Waits for other processes that render; then removes what they left."""
  lock = _lock_of(folder)
  try:
    lock.acquire()
  except Locked:
    print(f"Another process renders rooms in {folder.parents[1]}; this one "
          "waits for it.", file=sys.stderr)
    lock.acquire(waits=True)
  try:
    _remove_leftovers(folder)
    yield
  finally:
    lock.release()


def _clean_up(folder):
  """Removes what killed processes left, unless one renders just now."""
  if _leftovers(folder):
    with contextlib.suppress(ConfigError, OSError), _lock_of(folder):
      _remove_leftovers(folder)


def _leftovers(folder):
  """Unfinished folders and files of TFDS, of any config."""
  data_set = pathlib.Path(folder.parents[1])
  return list(data_set.glob("*/incomplete.*"))


def _remove_leftovers(folder):
  for path in _leftovers(folder):
    if path.is_dir():
      shutil.rmtree(path)
    else:
      path.unlink()
