"""Turns raw files into TFDS data sets that the configs can name.

  python -m tools.prepare_data coco --images val2017 \
      --panoptic panoptic_val2017 --annotations panoptic_val2017.json \
      --name coco/2017_panoptic --split validation [--data_dir DIR]
  python -m tools.prepare_data rooms [--data_dir DIR]

Run `coco` once per split; the splits already there are kept. With --name
coco/2017_panoptic the result is what TFDS itself would have made, and
`tfds.load` reads it; any other name (mydata, mydata/panoptic) has the same
features and its own categories.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from pp import categories as categories_lib
from tools import coco_files
from uvim.registry import ConfigError

# TFDS and TensorFlow take seconds to import: only after the files are checked.

_COCO = "coco/2017_panoptic"
_VERSIONS = {_COCO: "1.1.0"}


def _check_names(name: str, split: str) -> None:
  if not re.fullmatch(r"[a-z][a-z0-9_]*(/\w+)?", name):
    raise ConfigError(
        f"--name: {name!r}; allowed: small letters, digits and _, with one "
        "optional part after a slash, like 'mydata' or 'mydata/panoptic'.")
  if not re.fullmatch(r"[A-Za-z]\w*", split):
    raise ConfigError(f"--split: {split!r}; allowed: a plain name like "
                      "'train' or 'validation'.")


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


def _features(categories: Sequence[Any]) -> Any:
  """The features of TFDS's coco/2017_panoptic, name by name."""
  import numpy as np
  import tensorflow_datasets as tfds
  return tfds.features.FeaturesDict({
      "image": tfds.features.Image(encoding_format="jpeg"),
      "image/filename": tfds.features.Text(),
      "image/id": np.int64,
      "panoptic_image": tfds.features.Image(encoding_format="png"),
      "panoptic_image/filename": tfds.features.Text(),
      "panoptic_objects": tfds.features.Sequence({
          "id": np.int64,
          "area": np.int64,
          "bbox": tfds.features.BBoxFeature(),
          "label": tfds.features.ClassLabel(
              names=[category.name for category in categories]),
          "is_crowd": np.bool_,
      }),
  })


def _examples(records: Sequence[coco_files.Record], categories: Sequence[Any]
              ) -> Iterator[tuple[str, dict[str, Any]]]:
  """Keys and examples; files go in byte for byte."""
  import tensorflow_datasets as tfds
  label_of = {category.id: i for i, category in enumerate(categories)}

  def box(segment, image):
    x, y, width, height = segment["bbox"]
    # Some annotators' boxes end a pixel outside, which TFDS refuses.
    ends = (y / image["height"], x / image["width"],
            (y + height) / image["height"], (x + width) / image["width"])
    return tfds.features.BBox(*(min(1.0, max(0.0, end)) for end in ends))

  for record in records:
    yield record.image["file_name"], {
        "image": str(record.image_path),
        "image/filename": record.image["file_name"],
        "image/id": record.image["id"],
        "panoptic_image": str(record.panoptic_path),
        "panoptic_image/filename": record.annotation["file_name"],
        "panoptic_objects": [{
            "id": segment["id"],
            "area": int(segment["area"]),
            "bbox": box(segment, record.image),
            "label": label_of[segment["category_id"]],
            "is_crowd": bool(segment["iscrowd"]),
        } for segment in record.annotation["segments_info"]],
    }


def _make_builder(name: str, split: str, data_dir: str, *,
                  records: Sequence[coco_files.Record],
                  categories: Sequence[Any]) -> Any:
  """A TFDS builder of one split; TFDS shows the progress."""
  import tensorflow_datasets as tfds
  dataset, _, config = name.partition("/")
  version = _VERSIONS.get(name, "1.0.0")

  class Panoptic(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Panoptic segmentation in COCO's format."""
    VERSION = tfds.core.Version(version)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(
        name=config, version=version)] if config else []

    def _info(self):
      return tfds.core.DatasetInfo(builder=self,
                                   features=_features(categories))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples()}

    def _generate_examples(self):
      return _examples(records, categories)

  Panoptic.name = dataset
  return Panoptic(data_dir=data_dir, **({"config": config} if config else {}))


def _read_info(folder: pathlib.Path) -> dict[str, Any]:
  return json.loads((folder / "dataset_info.json").read_text())


def _check_existing(folder: pathlib.Path, split: str, categories: Sequence[Any],
                    *, overwrite: bool) -> None:
  """What is there must have the same labels, and not yet this split."""
  if not (folder / "dataset_info.json").is_file():
    return
  names = [item["name"] for item in _read_info(folder).get("splits", [])]
  if split in names and not overwrite:
    raise ConfigError(
        f"--split: {split!r} is already in {str(folder)!r} (splits: "
        f"{', '.join(names)}). Add --overwrite to replace it.")
  path = folder / categories_lib.FILE_NAME
  if path.is_file() and categories_lib.load(path) != tuple(categories):
    raise ConfigError(
        f"--name: {str(folder)!r} has other categories than --annotations. "
        "Choose another --name, or delete that folder.")


def _merge(new: pathlib.Path, folder: pathlib.Path, split: str) -> None:
  """Moves the files of one split beside those of the others.

  dataset_info.json goes last, in one rename: until then nobody sees the split.
  """
  folder.mkdir(parents=True, exist_ok=True)
  info, old = _read_info(new), []
  if (folder / "dataset_info.json").is_file():
    old = _read_info(folder).get("splits", [])
  shards = {path.name for path in new.glob("*.tfrecord*")}
  for path in new.iterdir():
    if path.name != "dataset_info.json":
      os.replace(path, folder / path.name)
  info["splits"] = [x for x in old if x["name"] != split] + info["splits"]
  partial = new / "merged.json"
  partial.write_text(json.dumps(info, indent=2))
  os.replace(partial, folder / "dataset_info.json")
  dataset = info["name"]
  for path in folder.glob(f"{dataset}-{split}.tfrecord*"):
    if path.name not in shards:  # Left from another number of shards.
      path.unlink()


def _progress(items: Any, **kw: Any) -> Any:
  from tqdm import tqdm
  return tqdm(items, unit=" images", **kw)


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
  _check_names(name, split)
  data = coco_files.read_json(pathlib.Path(annotations))
  categories = categories_lib.from_records(data["categories"], annotations)
  _check_categories(name, categories)
  folder = pathlib.Path(data_dir) / name / _VERSIONS.get(name, "1.0.0")
  _check_existing(folder, split, categories, overwrite=overwrite)
  records = coco_files.match_records(data, pathlib.Path(images),
                                     pathlib.Path(panoptic))
  coco_files.check_records(records, {x.id for x in categories},
                           progress=_progress)
  os.makedirs(data_dir, exist_ok=True)
  # On the same disk, so that moving the finished files is only a rename.
  with tempfile.TemporaryDirectory(dir=data_dir, prefix=".prepare_") as work:
    builder = _make_builder(name, split, work, records=records,
                            categories=categories)
    builder.download_and_prepare()
    new = pathlib.Path(builder.data_dir)
    categories_lib.save(new / categories_lib.FILE_NAME, categories)
    _merge(new, folder, split)
    shutil.rmtree(new)
  return folder


def _show(name: str, split: str, data_dir: str) -> None:
  """Reads the split back and leaves a picture of it."""
  from pp import sources
  from tools import contact_sheet
  source = sources.make_source(name, split, data_dir)
  path = pathlib.Path(source.folder) / f"contact_sheet_{split}.png"
  contact_sheet.write(source, path)
  print(f"{name} {split}: {source.num_examples} examples in {source.folder}")
  print(f"Look at them: {path}")


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
      prog="python -m tools.prepare_data", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest="command", required=True)
  coco = commands.add_parser("coco", help="panoptic files in COCO's format")
  for flag, text in (
      ("images", "folder of photographs"),
      ("panoptic", "folder of panoptic PNGs (id = R + 256 G + 65536 B)"),
      ("annotations", "panoptic JSON"),
      ("split", "split to write: train, validation, …")):
    coco.add_argument(f"--{flag}", required=True, help=text)
  coco.add_argument("--name", default=_COCO, help="TFDS name to write "
                    "(default: %(default)s)")
  coco.add_argument("--overwrite", action="store_true",
                    help="replace a split that is there")
  rooms = commands.add_parser("rooms", help="render the procedural data set")
  for command in (coco, rooms):
    command.add_argument("--data_dir", help="TFDS's root folder (default: "
                         "$TFDS_DATA_DIR or ~/tensorflow_datasets)")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command; 0, or 2 after a mistake that the message explains."""
  args = vars(_parser().parse_args(argv))
  command = args.pop("command")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from pp import sources
  args["data_dir"] = sources.default_data_dir(args["data_dir"])
  try:
    if command == "coco":
      prepare_coco(**args)
      _show(args["name"], args["split"], args["data_dir"])
    else:
      # make_source renders what is absent.
      _show("rooms", "validation", args["data_dir"])
  except ConfigError as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
