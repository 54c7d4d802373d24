r"""Turns raw files into TFDS data sets that the configs can name.

  python -m tools.prepare_data coco --images val2017 \
      --panoptic panoptic_val2017 --annotations panoptic_val2017.json \
      --name coco/2017_panoptic --split validation [--data_dir DIR]
  python -m tools.prepare_data nyu --train nyudepthv2/train \
      --validation nyudepthv2/val [--holdout_scenes 14]
  python -m tools.prepare_data rgbd --images DIR --depth DIR \
      [--depth_scale 1000] --name myrooms --split train
  python -m tools.prepare_data images --images DIR --name myphotos \
      --split train [--list FILE]
  python -m tools.prepare_data rooms [--data_dir DIR]

All files are looked at first, and what is wrong is told in one message; with
--checksums FILE they are compared with a list as md5sum or sha256sum write it.
Run a command once per split; splits that are there are kept, and a split
appears only when it is complete. A command that was stopped goes on with the
first file (of half a GB) that is missing; `coco`, whose order is TFDS's, starts
its split again and removes what the stopped one left.

coco: with --name coco/2017_panoptic the result is what TFDS itself would have
made, and `tfds.load` reads it; any other name (mydata, mydata/panoptic) has the
same features and its own categories.

nyu: NYU Depth V2 as SCENE/*.h5 (what TFDS unpacks for its nyu_depth_v2) or as
SCENE/rgb_*.jpg with SCENE/sync_depth_*.png. TFDS's own data set does not say
which scene a frame is from; this one does, and whole scenes of --train make up
the split `holdout`. The split to name for all training frames together is
`train+holdout`.

rgbd: any photographs with 16-bit PNG depth (metres = value / depth_scale) or
.npy depth (floats are metres). 0 = no measurement.

images: photographs, with labels where they lie in a folder per class. --list
names files, one per line, and the split has just these in that order. With
--name imagenet2012 splits are added to what TFDS made.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from tools import passes
from tools.prepare import (
  checksums,
  coco_files,
  depth_files,
  image_files,
  tfds_folder,
)
from uvim import categories as categories_lib
from uvim.registry import ConfigError

_COCO = "coco/2017_panoptic"
_ROOMS_BYTES = 140e6
_SCENES = "scenes.json"  # {split: scenes}, beside the data.


def _check_categories(name: str, categories: Sequence[Any]) -> None:
  """TFDS's own coco has fixed labels; every list needs unlike names."""
  if name == _COCO and tuple(categories) != categories_lib.coco_panoptic():
    raise ConfigError(
        f"--name: {_COCO!r} has COCO's 133 categories in their order; the "
        f"annotations have {len(categories)} that differ. Choose another "
        "--name, like 'mydata'.")
  names = [category.name for category in categories]
  twice = sorted({x for x in names if names.count(x) > 1})
  if twice:
    raise ConfigError(f"--annotations: category names that repeat: {twice}.")


def prepare_coco(*, images: str, panoptic: str, annotations: str, name: str,
                 split: str, data_dir: str, overwrite: bool = False
                 ) -> pathlib.Path:
  """Checks COCO-format panoptic files and writes them as one TFDS split.

  Args:
    images: folder of photographs, named as in the JSON.
    panoptic: folder of panoptic PNGs, named as in the JSON.
    annotations: the panoptic JSON.
    name: the TFDS name to write, with an optional config after a slash.
    split: the split to write.
    data_dir: TFDS's root folder.
    overwrite: replaces a split of that name.

  Returns:
    The folder of the data set.

  Raises:
    ConfigError: when the files are not consistent or the split is there.
  """
  tfds_folder.check_names(name, [split])
  data = coco_files.read_json(pathlib.Path(annotations))
  categories = categories_lib.from_records(data["categories"], annotations)
  _check_categories(name, categories)
  folder = tfds_folder.folder_of(name, data_dir)
  tfds_folder.check_existing(folder, [split], overwrite=overwrite)
  listed = folder / categories_lib.FILE_NAME
  if listed.is_file() and categories_lib.load(listed) != tuple(categories):
    raise ConfigError(
        f"--name: {str(folder)!r} has other categories than --annotations. "
        "Choose another --name, or delete that folder.")
  records = coco_files.match_records(data, pathlib.Path(images),
                                     pathlib.Path(panoptic))
  coco_files.check_records(records, {x.id for x in categories})
  # TFDS sorts in files of its own before it writes the final ones.
  tfds_folder.check_space(data_dir, len(records),
                          2 * coco_files.num_bytes(records))
  with tfds_folder.work_folder(data_dir) as work:
    builder = coco_files.make_builder(
        name, tfds_folder.version_of(name), split, work, records=records,
        categories=categories)
    coco_files.run_builder(builder)
    new = pathlib.Path(builder.data_dir)
    categories_lib.save(new / categories_lib.FILE_NAME, categories)
    tfds_folder.merge(new, folder, [split])
    shutil.rmtree(new)
  return folder


def _write_pairs(splits: dict[str, Sequence[depth_files.Pair]], *, name: str,
                 data_dir: str, extra_files: dict[str, str] | None = None
                 ) -> pathlib.Path:
  splits = {split: tfds_folder.spread(pairs, lambda pair: pair.name)
            for split, pairs in splits.items()}
  return tfds_folder.write(
      name, data_dir, splits, features=depth_files.make_features(),
      make_example=lambda item: depth_files.make_example(*item),
      extra_files=extra_files)


def prepare_rgbd(*, images: str, depth: str, name: str, split: str,
                 data_dir: str, depth_scale: float = 1000.0,
                 overwrite: bool = False) -> pathlib.Path:
  """Checks photographs with depth maps and writes them as one TFDS split.

  Args:
    images: folder of photographs.
    depth: folder of their depth maps, see `depth_files.match_rgbd`; it may be
      the same.
    name: the TFDS name to write, with an optional config after a slash.
    split: the split to write.
    data_dir: TFDS's root folder.
    depth_scale: whole numbers in a depth map per metre.
    overwrite: replaces a split of that name.

  Returns:
    The folder of the data set.

  Raises:
    ConfigError: when the files are not consistent or the split is there.
  """
  tfds_folder.check_names(name, [split])
  folder = tfds_folder.folder_of(name, data_dir)
  there = tfds_folder.check_existing(folder, [split], overwrite=overwrite)
  pairs = depth_files.match_rgbd(pathlib.Path(images), pathlib.Path(depth),
                                 depth_scale)
  if there:
    tfds_folder.check_features(folder, depth_files.make_features())
  passes.check_each(depth_files.check, pairs)
  return _write_pairs({split: pairs}, name=name, data_dir=data_dir)


def prepare_nyu(*, train: str | None, validation: str | None, name: str,
                data_dir: str, holdout_scenes: int = 14,
                overwrite: bool = False) -> pathlib.Path:
  """Checks NYU Depth V2 and writes the splits train, holdout and validation.

  Args:
    train: folder of the training scenes; None writes just `validation`.
    validation: folder of the validation frames, in sub-folders or not; None
      writes just the others.
    name: the TFDS name to write.
    data_dir: TFDS's root folder.
    holdout_scenes: how many scenes of `train` make up the split `holdout`, 14
      of 280 in the paper (section 3.3). 0 writes none.
    overwrite: replaces the splits that are there.

  Returns:
    The folder of the data set.

  Raises:
    ConfigError: when the files are not consistent, a split is there, or a scene
      would be in two splits.
  """
  splits = {}
  if train is not None:
    splits = depth_files.split_scenes(
        depth_files.match_nyu(pathlib.Path(train), "--train"), holdout_scenes)
  if validation is not None:
    splits["validation"] = depth_files.match_nyu(
        pathlib.Path(validation), "--validation")
  if not splits:
    raise ConfigError("--train, --validation: give at least one of them.")
  tfds_folder.check_names(name, list(splits))
  folder = tfds_folder.folder_of(name, data_dir)
  there = tfds_folder.check_existing(folder, list(splits), overwrite=overwrite)
  scenes = {split: sorted({pair.scene for pair in pairs})
            for split, pairs in splits.items()}
  if (folder / _SCENES).is_file():
    scenes = {**json.loads((folder / _SCENES).read_text()), **scenes}
  depth_files.check_apart(scenes)
  if there:
    tfds_folder.check_features(folder, depth_files.make_features())
  passes.check_each(lambda pair: depth_files.check(pair, depth_files.NYU_SIZE),
                    [pair for pairs in splits.values() for pair in pairs])
  return _write_pairs(splits, name=name, data_dir=data_dir, extra_files={
      _SCENES: json.dumps(scenes, indent=2)})


def prepare_images(*, images: Sequence[str], name: str, split: str,
                   data_dir: str, list_file: str | None = None,
                   overwrite: bool = False) -> pathlib.Path:
  """Checks photographs and writes them as one TFDS split.

  Args:
    images: folders of photographs, see `image_files.find`.
    name: the TFDS name to write, with an optional config after a slash.
    split: the split to write.
    data_dir: TFDS's root folder.
    list_file: text that names the files to take, one per line, in the order
      to write; None: all, in an order as good as random.
    overwrite: replaces a split of that name.

  Returns:
    The folder of the data set.

  Raises:
    ConfigError: when a file is not readable, listed files are not there, the
      split is, or the data set there has other features.
  """
  tfds_folder.check_names(name, [split])
  folder = tfds_folder.folder_of(name, data_dir)
  there = tfds_folder.check_existing(folder, [split], overwrite=overwrite)
  photos = image_files.find([pathlib.Path(path) for path in images])
  chosen = (image_files.pick(photos, pathlib.Path(list_file)) if list_file
            else tfds_folder.spread(photos, lambda photo: photo.name))
  if there:
    features = tfds_folder.existing_features(folder)
    image_files.check_fits(features, chosen)
  else:
    features = image_files.make_features(photos)
  passes.check_each(lambda photo: image_files.check(photo.path, photo.name),
                    chosen)
  return tfds_folder.write(
      name, data_dir, {split: chosen}, features=features,
      make_example=lambda item: image_files.make_example(*item, features))


def _show(name: str, split: str, data_dir: str) -> None:
  """Reads the split back and leaves a picture of it."""
  from pp import sources
  from tools.prepare import contact_sheet
  source = sources.make_source(name, split, data_dir)
  path = pathlib.Path(source.folder) / f"contact_sheet_{split}.png"
  contact_sheet.write(source, path)
  print(f"{name} {split}: {source.num_examples} examples in {source.folder}")
  print(f"Look at them: {path}")


def _add_coco(parser: argparse.ArgumentParser) -> None:
  for flag, text in (
      ("images", "folder of photographs"),
      ("panoptic", "folder of panoptic PNGs (id = R + 256 G + 65536 B)"),
      ("annotations", "panoptic JSON")):
    parser.add_argument(f"--{flag}", required=True, help=text)
  parser.add_argument("--name", default=_COCO, help="TFDS name to write "
                      "(default: %(default)s)")


def _add_nyu(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--train", help="folder of the training scenes")
  parser.add_argument("--validation", help="folder of the validation frames")
  parser.add_argument(
      "--holdout_scenes", type=int, default=14, help="how many scenes of "
      "--train become the split `holdout` (default: %(default)s)")
  parser.add_argument("--name", default="nyu_scenes", help="TFDS name to write "
                      "(default: %(default)s)")


def _add_rgbd(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--images", required=True, help="folder of photographs")
  parser.add_argument("--depth", required=True, help="folder of depth maps")
  parser.add_argument(
      "--depth_scale", type=float, default=1000.0,
      help="whole numbers per metre (default: %(default)g)")
  parser.add_argument("--name", required=True, help="TFDS name to write")


def _add_images(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--images", required=True, nargs="+",
                      help="folder(s) of photographs")
  parser.add_argument("--list", dest="list_file",
                      help="text that names the files to take, one per line")
  parser.add_argument("--name", required=True, help="TFDS name to write")


# Command → help, arguments, function.
_COMMANDS = {
    "coco": ("panoptic files in COCO's format", _add_coco, prepare_coco),
    "nyu": ("NYU Depth V2 with its scenes", _add_nyu, prepare_nyu),
    "rgbd": ("photographs with depth maps", _add_rgbd, prepare_rgbd),
    "images": ("photographs", _add_images, prepare_images),
}


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m tools.prepare_data", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest="command", required=True)
  for name, (text, add, _) in _COMMANDS.items():
    command = commands.add_parser(name, help=text)
    add(command)
    if name != "nyu":
      command.add_argument("--split", required=True,
                           help="split to write: train, validation, …")
    command.add_argument("--overwrite", action="store_true",
                         help="replace a split that is there")
    command.add_argument("--checksums", metavar="FILE", help="list of "
                         "checksums that the files must have")
  commands.add_parser("rooms", help="render the procedural data set")
  for command in commands.choices.values():
    command.add_argument("--data_dir", help="TFDS's root folder (default: "
                         "$TFDS_DATA_DIR or ~/tensorflow_datasets)")
  return parser


def _written(command: str, args: dict[str, Any]) -> tuple[str, list[str]]:
  """The data set and the splits that a command has written."""
  if command == "rooms":
    return "rooms", ["validation"]  # make_source renders what is absent.
  if command != "nyu":
    return args["name"], [args["split"]]
  train = ["train"] + ["holdout"] * bool(args["holdout_scenes"])
  return args["name"], (train * (args["train"] is not None) +
                        ["validation"] * (args["validation"] is not None))


def _folders(args: dict[str, Any]) -> list[pathlib.Path]:
  """The folders that a command line names, to look for listed files in."""
  out = []
  for key in ("images", "panoptic", "depth", "train", "validation"):
    value = args.get(key) or []
    out += map(pathlib.Path, [value] if isinstance(value, str) else value)
  if args.get("annotations"):
    out.append(pathlib.Path(args["annotations"]).parent)
  return out


def _check_rooms_space(data_dir: str) -> None:
  from pp.rooms import builder as rooms
  if not rooms.Builder(data_dir=data_dir).is_prepared():
    tfds_folder.check_space(
        data_dir, sum(rooms.SIZES["default"].values()), _ROOMS_BYTES)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; 0, or 2 after a mistake that the message explains."""
  args = vars(_parser().parse_args(argv))
  command = args.pop("command")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from absl import logging
  # TFDS warns of its own deprecated calls.
  logging.set_verbosity(logging.ERROR)
  from pp import sources
  args["data_dir"] = sources.default_data_dir(args["data_dir"])
  listed = args.pop("checksums", None)
  try:
    if listed:
      checksums.check(pathlib.Path(listed), _folders(args))
    if command in _COMMANDS:
      _COMMANDS[command][2](**args)
    else:
      _check_rooms_space(args["data_dir"])
    name, splits = _written(command, args)
    for split in splits:
      _show(name, split, args["data_dir"])
  except ConfigError as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
