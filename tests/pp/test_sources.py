"""Random access reads what TFDS reads; missing data is one clear error."""

import json
import shutil

import numpy as np
import pytest

from pp import sources
from uvim import categories
from uvim.registry import ConfigError


def values(source, indices):
  return [int(source.example(index)["value"]) for index in indices]


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


@pytest.mark.parametrize("split,part", [
    ("test", "Unknown split"), ("train[20:]", "11 examples"),
    ("train[-12:]", "11 examples"), ("train[:120%]", "-100, 100"),
    ("train[:0]", "no examples"), ("train[3:3]", "no examples"),
    ("train[5:2]", "no examples"), ("train[80%:20%]", "no examples"),
    ("train+train[5:2]", "5:2\\]' has no examples"),
    ("train[1:", "cannot read split"), ("", "cannot read split")])
def test_bad_splits(tiny_data, split, part):
  with pytest.raises(ConfigError, match=part) as caught:
    sources.make_source("tiny", split, tiny_data)
  message = str(caught.value)
  assert f"split {split!r}" in message
  assert message.endswith("Splits there: train (11), validation (5).")
  assert "\n" not in message


def test_fingerprint_is_the_same_however_the_folder_is_spelled(
    tiny_data, tmp_path, monkeypatch):
  moved = tmp_path / "müller [1]"
  shutil.copytree(tiny_data, moved)
  (tmp_path / "link").symlink_to(moved)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  expected = sources.make_source("tiny", "train", tiny_data).fingerprint()
  assert expected["name"] == "tiny"
  assert expected["version"] == "1.0.0"
  assert expected["num_examples"] == 11
  for data_dir in (moved, f"{moved}/", "link", "./müller [1]", "~/link"):
    for dataset in ("tiny", "tiny:1.0.0"):
      source = sources.make_source(dataset, "train", data_dir)
      assert source.fingerprint() == expected
  assert json.loads(json.dumps(expected)) == expected


def test_other_examples_have_another_fingerprint(tiny_data):
  checksums = {sources.make_source("tiny", split, tiny_data)
               .fingerprint()["checksum"]
               for split in ("train", "train[:10]", "train[1:]", "validation",
                             "train[1:]+train[:1]")}
  assert len(checksums) == 5


def test_coco_categories_are_the_official_ones(shared):
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
