"""`rooms`: a procedural RGB-D-panoptic data set that needs no download.

Small ray-cast rooms with the features of TFDS's coco/2017_panoptic plus depth
in metres. Made so that instances cannot be told apart pixel by pixel: most
scenes hold several things of one category in one colour that overlap.
"""

import contextlib
import io
import os
import sys

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from pp.rooms import worker as rooms_worker
from pp.rooms.render import render
from pp.rooms.things import CATEGORIES
from uvim.registry import lookup

__all__ = ["Builder", "CATEGORIES", "build", "render"]

# Split → stream of scenes. Streams never share a scene, whatever the sizes.
SEEDS = {"train": 0, "holdout": 1, "validation": 2}
SIZES = {
    "default": {"train": 8192, "holdout": 512, "validation": 512},
    "tiny": {"train": 64, "holdout": 16, "validation": 16},
}
_IDS_PER_STREAM = 10**9


class Builder(tfds.core.GeneratorBasedBuilder):
  """TFDS builder of `rooms`; config 'tiny' is the start of 'default'."""

  name = "rooms"
  VERSION = tfds.core.Version("1.1.0")
  RELEASE_NOTES = {"1.0.0": "First scenes.",
                   "1.1.0": "Larger things, for pictures of 48 pixels."}
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in SIZES]

  def _info(self):
    objects = tfds.features.Sequence({
        "id": np.int64,
        "area": np.int64,
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(
            names=[name for _, name, _ in CATEGORIES]),
        "is_crowd": np.bool_,
    })
    features = tfds.features.FeaturesDict({
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "panoptic_image": tfds.features.Image(encoding_format="png"),
        "panoptic_image/filename": tfds.features.Text(),
        "panoptic_objects": objects,
        "depth": tfds.features.Tensor(
            shape=(None, None, 1), dtype=np.float32, encoding="zlib"),
    })
    # The workers encode: TFDS does it object by object in this process, where
    # it would take most of the time of writing.
    features.encode_example = lambda example: example
    return tfds.core.DatasetInfo(
        builder=self,
        description=__doc__,
        features=features,
        # Record i of a split is scene i of its stream.
        disable_shuffling=True)

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing to download.
    sizes = SIZES[self.builder_config.name]
    return {split: self._generate_examples(split, num)
            for split, num in sizes.items()}

  def _generate_examples(self, split, num):
    seed = SEEDS[split]
    scenes = rooms_worker.scenes(seed, num)
    # A log file keeps every line of the bar; a terminal overwrites them.
    interval = 0.1 if sys.stderr.isatty() else 15
    bar = tqdm(scenes, f"rooms {split}", num, unit=" scenes",
               mininterval=interval)
    for index, scene in bar:
      number = seed * _IDS_PER_STREAM + index
      yield index, {
          **scene,
          "image/id": number,
          "image/filename": f"{number:012d}.jpg",
          "panoptic_image/filename": f"{number:012d}.png",
      }


def build(data_dir=None, config="default"):
  """Renders `rooms` to disk unless it is there; returns its TFDS builder.

  Args:
    data_dir: TFDS's root folder; None means TFDS's own default.
    config: a key of SIZES.

  Raises:
    ConfigError: for an unknown config.
  """
  lookup(SIZES, config, "config of rooms")
  builder = Builder(config=config,
                    data_dir=os.fspath(data_dir) if data_dir else None)
  if builder.is_prepared():
    return builder
  print(f"Rendering {sum(SIZES[config].values())} scenes to "
        f"{builder.data_dir}", file=sys.stderr)
  # TFDS would announce a download and draw three nested bars around ours.
  tfds.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare()
  finally:
    tfds.display_progress_bar(True)
  return builder
