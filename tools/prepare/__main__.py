r"""Makes TFDS data sets, which the configs can name, of raw files.

  python -m tools.prepare_data coco --images val2017 \
      --panoptic panoptic_val2017 --annotations panoptic_val2017.json \
      --name coco/2017_panoptic --split validation [--data_dir DIR]
  python -m tools.prepare_data masks --images DIR --masks DIR \
      --classes classes.txt --name mymasks --split train
  python -m tools.prepare_data nyu --train nyudepthv2/train \
      --validation nyudepthv2/val [--holdout_scenes 14]
  python -m tools.prepare_data rgbd --images DIR [--depth DIR] \
      [--unit mm] [--max_depth METRES] --name myrooms --split train
  python -m tools.prepare_data images --images DIR --name myphotos \
      --split train [--list FILE]
  python -m tools.prepare_data rooms [--name rooms/clips] [--data_dir DIR]

All files are checked first, and one message names all problems. With
--checksums FILE they are also compared with a list as md5sum or sha256sum
write it. Run a command once for each split. It keeps the splits that are
there, and the new split appears only when it is complete. A command that was
stopped goes on with the first file (of half a GB) that is missing. Only `coco`
starts its split again, because TFDS decides the order of its examples; it
removes what the stopped command left. Two commands for one data set do not run
at once: the second is refused. With --config_out DIR the last command of a data
set also writes its config pair; see tools.make_config.

coco: panoptic files. With --name coco/2017_panoptic the result is the same as
TFDS's own, and `tfds.load` reads it. Any other name (mydata, mydata/panoptic)
has the same features and its own categories. docs/data.md has all readers.

nyu: NYU Depth V2 as SCENE/*.h5 (what TFDS unpacks for its nyu_depth_v2) or as
SCENE/rgb_*.jpg with SCENE/sync_depth_*.png. TFDS's own data set does not tell
the scene of a frame; this one does, and whole scenes of --train make up the
split `holdout`. The name of all training frames together is `train+holdout`.

masks, instances: images with PNGs of classes and, if there are any, of
instances. cityscapes, kitti_step, ade20k: the same, as these are distributed.

davis, kitti_step_clips: clips, whose frames stay in order. An object keeps its
id in all frames of its clip.

detection, labelme, label_studio: polygons and other shapes in annotation files.

rgbd: images with depth maps, named as in 7-Scenes, ScanNet, TUM RGB-D or in
another usual way: 16-bit PNG, TIFF, .npy, .npz, .exr or .pfm. 0, negative, NaN,
infinite, 65535 and what exceeds --max_depth mean no measurement. What cannot be
metres is refused: another unit, disparity, depth drawn in colors.

images: images, with labels if they lie in one folder for each class. --list
names files, one per line; the split has only these, in that order. With
--name imagenet2012 splits are added to what TFDS made.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable, Sequence

from tools.prepare import checksums
from tools.prepare.ade20k import Ade20kReader
from tools.prepare.cityscapes import CityscapesReader
from tools.prepare.coco import CocoReader
from tools.prepare.davis import DavisReader
from tools.prepare.detection import DetectionReader
from tools.prepare.images import ImagesReader
from tools.prepare.instances import InstancesReader
from tools.prepare.kitti_step import KittiStepClipsReader, KittiStepReader
from tools.prepare.label_studio import LabelStudioReader
from tools.prepare.labelme import LabelmeReader
from tools.prepare.masks import MasksReader
from tools.prepare.nyu import NyuReader
from tools.prepare.reader import Reader
from tools.prepare.rgbd import RgbdReader
from tools.prepare.rooms import RoomsReader
from tools.prepare.writer import Target
from uvim.cli import app

# The commands, in the order of --help. A new reader is one more entry.
READERS: dict[str, type[Reader]] = {
    reader.command: reader
    for reader in (CocoReader, DetectionReader, LabelmeReader,
                   LabelStudioReader, MasksReader, InstancesReader,
                   CityscapesReader, KittiStepReader, Ade20kReader,
                   DavisReader, KittiStepClipsReader, NyuReader, RgbdReader,
                   ImagesReader, RoomsReader)}


def make_parser() -> argparse.ArgumentParser:
  """The parser with one command for each reader."""
  parser = app.make_parser("tools.prepare_data", __doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  for name, reader in READERS.items():
    command = commands.add_parser(name, help=reader.summary)
    reader.add_options(command)
    command.add_argument("--data_dir", help="TFDS's root folder (default: "
                         "$TFDS_DATA_DIR or ~/tensorflow_datasets)")
    command.add_argument("--config_out", metavar="DIR", help="also write a "
                         "config pair there (see tools.make_config)")
  return parser


def prepare(options: argparse.Namespace) -> None:
  """Makes the data set and its contact sheets.

  Args:
    options: from `make_parser`.

  Raises:
    ConfigError: see `Reader.prepare`.
  """
  # TensorFlow takes seconds to import; --help does without.
  from absl import logging

  from pp import sources

  # TFDS warns of its own deprecated calls.
  logging.set_verbosity(logging.ERROR)
  reader = READERS[options.command].from_options(options)
  data_dir = sources.default_data_dir(options.data_dir)
  target = Target(options.name, data_dir, options.overwrite)
  # Also what is wrong with --config_out shows before any file is read.
  make_pair = _pair_maker(options)
  # Before the reader checks its files: a damaged file is then named as such.
  if options.checksums:
    checksums.check(pathlib.Path(options.checksums), reader.source_folders())
  for split in reader.prepare(target):
    show(target, split)
  make_pair()


def _pair_maker(options: argparse.Namespace) -> Callable[[], None]:
  """What writes the config pair that the options ask for, if they do.

  Raises:
    ConfigError: --config_out is no folder for it, or a pair is there.
  """
  if options.config_out is None:
    return lambda: None
  from tools.make_config import pair, recipe
  config = pair.make_target(options.config_out, options.name, "--config_out")
  # Not even with --overwrite, which is for the data.
  pair.check_absent(
      config, remedy="Leave --config_out out; python -m tools.make_config "
      "--overwrite replaces it later.")
  return functools.partial(
      pair.make_pair, options.name, options.data_dir, config, recipe.MINUTES)


def show(target: Target, split: str) -> None:
  """Reads a split back and draws its contact sheet beside the data."""
  from pp import sources
  from tools.prepare import class_table, contact_sheet
  # As a training run would read it, so the sheet shows what a model will see.
  source = sources.make_source(target.name, split, target.data_dir)
  sheet_path = pathlib.Path(source.folder) / f"contact_sheet_{split}.png"
  class_table.print_table(source)
  contact_sheet.write(source, sheet_path)
  print(f"{target.name} {split}: {source.num_examples} examples in "
        f"{source.folder}")
  print(f"Look at them: {sheet_path}")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; 0, or 2 after a mistake that the message explains."""
  return app.run(make_parser(), prepare, argv)


if __name__ == "__main__":
  sys.exit(main())
