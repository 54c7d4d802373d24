"""Random access reads what TFDS reads; missing data is one clear error."""

import shutil

import numpy as np
import pytest

from pp import sources
from uvim import categories
from uvim.registry import ConfigError


def values(source, indices):
  return [int(source.example(index)["value"]) for index in indices]


def copy_without_index(tiny_data, folder):
  """A copy of the data set that nobody has opened yet; its folder."""
  shutil.copytree(tiny_data / "tiny", folder / "tiny",
                  ignore=shutil.ignore_patterns(".offsets"))
  return folder / "tiny" / "1.0.0"


@pytest.mark.parametrize("split", [
    "train", "train[4:]", "train[:3]", "train[2:9]", "train[30%:]",
    "validation[-2:]", "train+validation"])
def test_order_is_that_of_tfds(tiny_data, split):
  import tensorflow_datasets as tfds
  builder = tfds.builder_from_directory(tiny_data / "tiny" / "1.0.0")
  expected = [int(example["value"]) for example in
              tfds.as_numpy(builder.as_dataset(split=split))]
  source = sources.make_source("tiny", split, tiny_data)
  assert source.num_examples == len(source) == len(expected)
  assert values(source, range(len(source))) == expected


def test_any_order_any_repeat_and_bounds(tiny_data):
  source = sources.make_source("tiny", "train", tiny_data)
  assert sorted(values(source, range(11))) == list(range(11))
  one = source.read([7])[0]
  assert source.read([7, 2, 7])[::2] == [one, one]
  for index in (-1, 11):
    with pytest.raises(IndexError, match="of 11"):
      source.read([index])


def test_image_stays_encoded_and_id_is_the_position(tiny_data):
  example = sources.make_source("tiny", "validation", tiny_data).example(3)
  assert example["image"].startswith(b"\x89PNG")
  assert example["image/id"] == 3 and example["image/id"].dtype == np.int64
  assert example["name"] == f"number {example['value']}".encode()


def test_the_saved_index_is_used_and_follows_the_files(tiny_data, tmp_path):
  folder = copy_without_index(tiny_data, tmp_path)
  first = sources.make_source("tiny", "train", tmp_path)
  index_path, = (folder / ".offsets").glob("*.npy")
  # Swapped examples show that the index is read and the files are not.
  places = np.load(index_path)
  places[[0, 1]] = places[[1, 0]]
  np.save(index_path, places)
  again = sources.make_source("tiny", "train", tmp_path)
  assert again.read([0, 1, 10]) == first.read([1, 0, 10])

  # Same name and size, other content and time: a stale index would not show.
  file = next(folder.glob("*train*00000*"))
  shutil.copyfile(file, tmp_path / "copy")
  (tmp_path / "copy").replace(file)
  new = sources.make_source("tiny", "train", tmp_path)
  assert new.read([0, 1, 10]) == first.read([0, 1, 10])
  assert len(list((folder / ".offsets").glob("*.npy"))) == 2


def test_index_falls_back_to_the_users_cache(tiny_data, tmp_path, monkeypatch):
  folder = copy_without_index(tiny_data, tmp_path)
  # A file where the folder should be stands for a read-only data_dir.
  (folder / ".offsets").write_text("")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  source = sources.make_source("tiny", "train", tmp_path)
  assert sorted(values(source, range(11))) == list(range(11))
  assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


@pytest.mark.parametrize("cut", [3, 40])
def test_a_truncated_file_is_named(tiny_data, tmp_path, cut):
  folder = copy_without_index(tiny_data, tmp_path)
  file = next(folder.glob("*train*00001*"))
  file.write_bytes(file.read_bytes()[:-cut])
  with pytest.raises(ConfigError, match="00001-of-00003: cut short"):
    sources.make_source("tiny", "train", tmp_path)


def test_a_lost_record_is_noticed(tiny_data, tmp_path):
  folder = copy_without_index(tiny_data, tmp_path)
  file = next(folder.glob("*train*00001*"))
  offset, length = sources.scan_records(str(file))[-1]
  file.write_bytes(file.read_bytes()[:offset - 12])
  with pytest.raises(ConfigError, match="says"):
    sources.make_source("tiny", "train", tmp_path)


def test_missing_data_set_says_how_to_get_it(tmp_path):
  with pytest.raises(ConfigError) as caught:
    sources.make_source("coco/2017_panoptic", "train", tmp_path)
  message = str(caught.value)
  for part in ("coco/2017_panoptic", str(tmp_path), "tools.prepare_data coco",
               "download_and_prepare", "TFDS_DATA_DIR"):
    assert part in message


@pytest.mark.parametrize("split,part", [
    ("test", "validation \\(5\\)"), ("train[20:]", "11 examples"),
    ("train[:0]", "no examples"), ("train[1:", "cannot read split")])
def test_bad_splits(tiny_data, split, part):
  with pytest.raises(ConfigError, match=part):
    sources.make_source("tiny", split, tiny_data)


def test_data_dir_default(monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
  assert sources.default_data_dir() == "/somewhere"
  assert sources.default_data_dir("/here") == "/here"
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert sources.default_data_dir().endswith("/tensorflow_datasets")
  assert "~" not in sources.default_data_dir()


def test_coco_categories_are_the_official_ones(shared):
  import json
  records = json.loads((shared / "data/coco_panoptic/"
                        "panoptic_coco_categories.json").read_text())
  assert categories.coco_panoptic() == categories.from_records(records, "")


def test_categories_round_trip_and_errors(tmp_path):
  rows = (categories.Category(5, "chair", True),
          categories.Category(9, "wall", False))
  categories.save(tmp_path / "c.json", rows)
  assert categories.load(tmp_path / "c.json") == rows
  for bad in ([], [{"id": 1, "name": "x"}],
              [{"id": 1, "name": "x", "isthing": 1}] * 2):
    with pytest.raises(ConfigError, match="where.json"):
      categories.from_records(bad, "where.json")
