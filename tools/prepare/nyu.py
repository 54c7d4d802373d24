"""The reader of NYU Depth V2, which can hold out whole scenes."""

import argparse
import collections
import dataclasses
import functools
import hashlib
import itertools
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

from tools.passes import raise_problems
from tools.prepare import (
    depth_files,
    depth_reader,
    hdf5_files,
    image_files,
    reader,
    tfds_folder,
)
from tools.prepare.depth_files import Pair
from tools.prepare.depth_unit import Unit
from tools.prepare.writer import Found, Target
from uvim import files
from uvim.registry import ConfigError

SCENES_FILE = "scenes.json"  # {split: names of its scenes}, beside the data.
_NAME = "nyu_scenes"
# PNGs hold millimetres, .h5 files metres.
_UNIT = Unit(whole=1000.0, is_stated=True)


@dataclasses.dataclass(frozen=True)
class NyuReader(depth_reader.DepthReader):
  """NYU Depth V2, as the splits train, holdout and validation.

  Attributes:
    train: folder of the training scenes. None: only `validation` is written.
    validation: folder of the validation frames, in sub-folders or not. None:
      only the other splits are written.
    holdout_scenes: how many scenes of `train` make up the split `holdout`: 14
      of 280 in the paper (section 3.3). 0: there is no such split.
    size_HW: height and width of every frame.
  """
  train: pathlib.Path | None
  validation: pathlib.Path | None
  holdout_scenes: int = 14
  size_HW: tuple[int, int] = dataclasses.field(
      default=(480, 640), kw_only=True)

  command = "nyu"
  summary = "NYU Depth V2 with its scenes"
  wrong_unit = ("NYU's PNGs hold millimetres; read others with `rgbd` and its "
                "--unit.")

  @classmethod
  def add_options(cls, parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", type=pathlib.Path,
                        help="folder of the training scenes")
    parser.add_argument("--validation", type=pathlib.Path,
                        help="folder of the validation frames")
    parser.add_argument(
        "--holdout_scenes", type=int, default=cls.holdout_scenes,
        help="how many scenes of --train become the split `holdout` (default: "
        "%(default)s)")
    reader.add_name_option(parser, default=_NAME)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options: argparse.Namespace) -> Self:
    return cls(options.train, options.validation, options.holdout_scenes,
               max_depth=options.max_depth)

  def source_folders(self) -> list[pathlib.Path]:
    folders = [self.train, self.validation]
    return [folder for folder in folders if folder is not None]

  def split_names(self) -> list[str]:
    names = []
    if self.train is not None:
      names.append("train")
      if self.holdout_scenes:
        names.append("holdout")
    if self.validation is not None:
      names.append("validation")
    if not names:
      raise ConfigError("--train, --validation: give at least one of them.")
    return names

  def find(self, target: Target) -> Found:
    depth_reader.check_limit(self.max_depth)
    splits = {}
    if self.train is not None:
      pairs = find_frames(self.train, "--train", self.max_depth)
      splits = split_scenes(pairs, self.holdout_scenes)
    if self.validation is not None:
      splits["validation"] = find_frames(
          self.validation, "--validation", self.max_depth)
    # Splits that are there and stay may not share a scene with new ones.
    scenes = _read_scenes(target.folder)
    for split, pairs in splits.items():
      scenes[split] = sorted({pair.scene for pair in pairs})
    check_no_common_scene(scenes)
    features = depth_files.make_features()
    tfds_folder.check_features(target.folder, features)
    # In the order of the files, the start of a split would show few rooms.
    mixed = {}
    for split, pairs in splits.items():
      mixed[split] = tfds_folder.in_hash_order(pairs, depth_files.name_of)
    # Beside the data, for the next run that adds a split.
    write_scenes = functools.partial(files.write_json, content=scenes)
    return Found(mixed, features, {SCENES_FILE: write_scenes})


def find_frames(folder: pathlib.Path, flag: str,
                max_depth: float = math.inf) -> list[Pair]:
  """The frames below a folder, in either layout.

  SCENE/*.h5 with 'rgb' and 'depth', as TFDS's nyu_depth_v2 unpacks them; or
  SCENE/rgb_*.jpg beside SCENE/sync_depth_*.png in millimeters.

  Args:
    folder: holds the folders of the scenes, or the frames themselves.
    flag: the option that names the folder, for the message.
    max_depth: a larger depth counts as not measured; in metres.

  Raises:
    ConfigError: there is no frame, a depth map is absent, or h5py is needed
      and not installed.
  """
  pairs = []
  problems = []
  for path in image_files.list_files(folder, flag, (".h5", ".jpg", ".png")):
    if hdf5_files.is_hdf5(path):
      depth_path = path
    elif path.name.startswith("rgb_"):
      number = path.stem.removeprefix("rgb_")
      depth_path = path.with_name(f"sync_depth_{number}.png")
    else:  # A depth map, or something else that lies there.
      continue
    if not depth_path.is_file():
      problems.append(f"{path}: no {depth_path.name} beside it.")
    pair = depth_files.make_pair(
        folder, path, depth_path, _UNIT, max_depth)
    pairs.append(pair)
  raise_problems(problems, f"{flag}: depth maps are absent")
  if not pairs:
    raise ConfigError(
        f"{flag}: {str(folder)!r} has neither SCENE/*.h5 nor SCENE/rgb_*.jpg "
        "with SCENE/sync_depth_*.png.")
  if any(hdf5_files.is_hdf5(pair.image) for pair in pairs):
    # Now, and not in the middle of the pass over all files.
    hdf5_files.import_h5py()
  return pairs


def split_scenes(pairs: Sequence[Pair], num_holdout: int
                 ) -> dict[str, list[Pair]]:
  """The frames of `num_holdout` scenes as `holdout`, the others as `train`.

  Raises:
    ConfigError: frames have no scene; or see `choose_holdout`.
  """
  # Without a holdout the scenes do not matter.
  if not num_holdout:
    return {"train": list(pairs)}
  without_scene = [pair.name for pair in pairs if not pair.scene]
  if without_scene:
    raise ConfigError(
        f"--train: {len(without_scene)} frames, like {without_scene[0]!r}, lie "
        "in no folder of a scene, so no scene can be held out. Sort them, or "
        "give --holdout_scenes 0.")
  holdout = choose_holdout([pair.scene for pair in pairs], num_holdout)
  splits = {"train": [], "holdout": []}
  for pair in pairs:
    split = "holdout" if pair.scene in holdout else "train"
    splits[split].append(pair)
  return splits


def choose_holdout(scenes: Sequence[str], count: int) -> list[str]:
  """Chooses scenes by a hash of their names, the same on every machine.

  Recordings such as basement_0001a and basement_0001b show the same room. All
  of them are held out, or none.

  Args:
    scenes: names; they may repeat.
    count: how many scenes to choose.

  Raises:
    ConfigError: no scene is left to train on, or the recordings of whole rooms
      do not add up to `count`.
  """
  # There is a name for each frame.
  distinct_scenes = set(scenes)
  num_scenes = len(distinct_scenes)
  if not 0 <= count < num_scenes:
    raise ConfigError(
        f"--holdout_scenes: {count}; allowed: 0 to {num_scenes - 1}, as there "
        f"are {num_scenes} scenes.")
  scenes_of_room = collections.defaultdict(list)
  for scene in distinct_scenes:
    # The letter of a recording follows the number of its room.
    room = re.sub(r"(?<=\d)[a-z]$", "", scene)
    scenes_of_room[room].append(scene)
  chosen = []
  # A room that would be too many is left out; a later one may still fit.
  # By the hash and not by the name: similar rooms have similar names.
  for room in sorted(scenes_of_room, key=_hash_of):
    recordings = scenes_of_room[room]
    if len(chosen) + len(recordings) <= count:
      chosen += recordings
  if len(chosen) != count:
    raise ConfigError(f"--holdout_scenes: {count} cannot be reached without "
                      "parting one room's recordings; choose another number.")
  return sorted(chosen)


def _hash_of(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()


def _read_scenes(folder: pathlib.Path) -> dict[str, list[str]]:
  """The scenes of the splits that are there.

  Raises:
    ConfigError: the file is damaged.
  """
  path = folder / SCENES_FILE
  if not path.exists():
    return {}
  scenes = files.load_json(path, "--name")
  if not isinstance(scenes, dict) or not all(
      _is_list_of_texts(names) for names in scenes.values()):
    raise ConfigError(f"--name: {str(path)!r} is damaged: it does not list the "
                      "scenes of each split. Choose another --name.")
  return scenes


def _is_list_of_texts(value: Any) -> bool:
  return isinstance(value, list) and all(
      isinstance(item, str) for item in value)


def check_no_common_scene(scenes: Mapping[str, Sequence[str]]) -> None:
  """Raises a ConfigError if two splits share a scene.

  Args:
    scenes: split → names of its scenes.
  """
  problems = []
  # A shared scene would let a model be scored on what it has seen.
  for first, second in itertools.combinations(sorted(scenes), 2):
    in_first = set(scenes[first])
    in_both = in_first.intersection(scenes[second])
    for scene in sorted(in_both):
      problems.append(f"{scene}: in {first} and in {second}.")
  raise_problems(problems, "Scenes in more than one split")
