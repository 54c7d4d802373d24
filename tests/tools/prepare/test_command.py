"""The command line, and how to add a reader."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from pp import sources
from tests.tools.prepare import raw_files
from tools.prepare import __main__ as prepare_data
from tools.prepare import reader
from tools.prepare.writer import Found, Target
from uvim.registry import ConfigError


def test_missing_and_unknown_options_are_one_line(capsys):
  message = raw_files.failure(["coco", "--images", "x"], capsys)
  assert message == (
      "error: the following arguments are required: --panoptic, "
      "--annotations, --split. python -m tools.prepare_data coco --help lists "
      "the options.\n")
  message = raw_files.failure(["rooms", "--split", "train"], capsys)
  assert "Unexpected argument '--split'" in message


@pytest.mark.parametrize("command", sorted(prepare_data.READERS))
def test_every_command_has_help(command, capsys):
  with pytest.raises(SystemExit) as exit_info:
    prepare_data.main([command, "--help"])
  assert exit_info.value.code == 0
  assert "--data_dir" in capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class NumbersReader(reader.FileReader):
  """A reader as small as one can be: text files with a number in each."""
  folder: pathlib.Path

  command = "numbers"
  summary = "numbers in text files"

  @classmethod
  def add_options(cls, parser):
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    reader.add_name_option(parser)
    super().add_options(parser)

  @classmethod
  def from_options(cls, options):
    return cls(options.folder)

  def source_folders(self):
    return [self.folder]

  def split_names(self):
    return ["train"]

  def find(self, target):
    import tensorflow_datasets as tfds
    features = tfds.features.FeaturesDict({"number": np.int64})
    return Found({"train": sorted(self.folder.iterdir())}, features)

  def problems(self, item):
    if item.read_text().isdecimal():
      return []
    return [f"{item.name}: no number."]

  def make_example(self, position: int, item: Any):
    return {"number": int(item.read_text()), "left out": position}


def test_a_new_reader_is_one_class(tmp_path):
  folder = tmp_path / "raw"
  folder.mkdir()
  for number in range(3):
    (folder / f"{number}.txt").write_text(str(number * 11))
  (folder / "3.txt").write_text("three")
  target = Target("numbers", str(tmp_path / "out"))
  new_reader = NumbersReader(folder)
  with pytest.raises(ConfigError, match=r"consistent: 3.txt: no number"):
    new_reader.prepare(target)
  assert not target.folder.exists()
  (folder / "3.txt").write_text("33")
  assert new_reader.prepare(target) == ["train"]
  source = sources.make_source("numbers", "train", tmp_path / "out")
  numbers = [int(source.example(index)["number"]) for index in range(4)]
  assert numbers == [0, 11, 22, 33]
