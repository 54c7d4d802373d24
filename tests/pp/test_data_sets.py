"""Data sets are found by name; what is absent or damaged is one clear error."""

import shutil

import pytest

from pp import data_sets, sources
from tests.pp.test_sources import values
from uvim.registry import ConfigError


def failure(dataset, data_dir):
  with pytest.raises(ConfigError) as caught:
    sources.make_source(dataset, "train", data_dir)
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_missing_data_set_says_how_to_get_it(tmp_path):
  message = failure("coco/2017_panoptic", tmp_path / "a b")
  for part in ("coco/2017_panoptic", f"--data_dir '{tmp_path}/a b'",
               "tools.prepare_data coco", "download_and_prepare",
               "TFDS_DATA_DIR"):
    assert part in message


@pytest.mark.parametrize("dataset,there", [
    ("rooms/tiny:9.9.9", "1.1.0"), ("rooms:1.0.0", "1.1.0"),
    ("tiny:9.9.9", "1.0.0"), ("tiny:one", "1.0.0")])
def test_a_version_that_is_not_there(tiny_data, dataset, there):
  message = failure(dataset, tiny_data)
  name, version = dataset.split(":")
  assert f"{name!r} has no version {version!r}" in message
  assert message.endswith(f"there are: {there}.")


def test_a_version_that_is_there(tiny_data, rooms_tiny_dir):
  assert len(sources.make_source("tiny:1.0.0", "train", tiny_data)) == 11
  assert len(sources.make_source("tiny:1.*.*", "train", tiny_data)) == 11
  source = sources.make_source("rooms/tiny:1.1.0", "train", rooms_tiny_dir)
  assert len(source) == 64


def test_an_older_version_of_rooms_is_opened_from_its_files(
    rooms_tiny_dir, tmp_path):
  folder = tmp_path / "rooms/tiny/1.0.0"
  shutil.copytree(rooms_tiny_dir / "rooms/tiny/1.1.0", folder)
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace(
      '"version": "1.1.0"', '"version": "1.0.0"'))
  source = sources.make_source("rooms/tiny:1.0.0", "train", tmp_path)
  assert source.fingerprint()["version"] == "1.0.0"
  assert source.categories
  assert "there are: 1.0.0, 1.1.0." in failure("rooms/tiny:2.0.0", tmp_path)


@pytest.mark.parametrize("dataset,words", [
    ("rooms/tinny", "Did you mean 'tiny'"), ("rooms/", "config of rooms ''"),
    ("rooms/tiny:", "allowed: a name"), ("", "allowed: a name"),
    (":1.0.0", "allowed: a name"), ("../tiny", "not prepared"),
    ("ti ny", "not prepared"), ("tiny/other", "not prepared")])
def test_names_that_are_none(tiny_data, dataset, words):
  assert words in failure(dataset, tiny_data)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"null", b"[]", b"\xff"])
def test_a_damaged_description_is_named(tiny_data, tmp_path, name, content):
  shutil.copytree(tiny_data / "tiny", tmp_path / "tiny")
  folder = tmp_path / "tiny/1.0.0"
  (folder / name).unlink()
  if content is not None:
    (folder / name).write_bytes(content)
  message = failure("tiny", tmp_path)
  assert str(folder) in message
  assert message.endswith(" Copy it or prepare it again.")


@pytest.mark.parametrize("content", ["{", "[]", '[{"id": "one"}]', "3"])
def test_damaged_categories_are_named(tiny_data, tmp_path, content):
  shutil.copytree(tiny_data / "tiny", tmp_path / "tiny")
  path = tmp_path / "tiny/1.0.0/categories.json"
  path.write_text(content)
  assert failure("tiny", tmp_path).startswith(f"dataset: {str(path)!r}")


def test_damaged_rooms_say_how_to_render_them_again(rooms_tiny_dir, tmp_path):
  shutil.copytree(rooms_tiny_dir / "rooms", tmp_path / "rooms")
  folder = tmp_path / "rooms/tiny/1.1.0"
  (folder / "dataset_info.json").write_text("{")
  message = failure("rooms/tiny", tmp_path)
  assert f"Delete '{folder}', and it is rendered again." in message


def test_data_dir_default(monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
  assert data_sets.default_data_dir() == "/somewhere"
  assert data_sets.default_data_dir("/here") == "/here"
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert data_sets.default_data_dir().endswith("/tensorflow_datasets")
  assert "~" not in data_sets.default_data_dir()
  assert "~" not in data_sets.default_data_dir("~/data")


@pytest.mark.parametrize("name", ["a b", "ü", "lr[1]", "x*?", "-d", "a'b\"c"])
def test_odd_names_of_data_dir(tiny_data, tmp_path, monkeypatch, name):
  shutil.copytree(tiny_data, tmp_path / name)
  monkeypatch.chdir(tmp_path)
  for data_dir in (name, f"./{name}/", tmp_path / name):
    source = sources.make_source("tiny", "validation", data_dir)
    assert sorted(values(source, range(5))) == list(range(5))
