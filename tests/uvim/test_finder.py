"""Which files below a folder count."""

import os

import pytest

from uvim import finder
from uvim.registry import ConfigError

SUFFIXES = (".jpg", ".png")


def make(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def find(folder):
  paths = finder.find_files(folder, SUFFIXES)
  return [path.relative_to(folder).as_posix() for path in paths]


def test_what_others_leave_does_not_count(tmp_path):
  make(tmp_path, "b.JPG", "a/a.png", "a/note.txt", ".thumbs/a.jpg", "._a.jpg",
       "__MACOSX/a.jpg", "@eaDir/a.jpg")
  assert find(tmp_path) == ["a/a.png", "b.JPG"]


def test_what_predict_wrote_does_not_count(tmp_path):
  make(tmp_path, "a.jpg", "out/predictions.json", "out/pictures/a.png",
       "half/predictions.jsonl", "half/panoptic/a.png")
  assert find(tmp_path) == ["a.jpg"]
  # Named by the user, it counts.
  assert find(tmp_path / "out") == ["pictures/a.png"]


def test_data_sets_do_not_count(tmp_path):
  make(tmp_path, "a.jpg", "set/1.0.0/dataset_info.json",
       "set/1.0.0/features.json", "set/1.0.0/contact_sheet_train.png",
       "other/dataset_info.json", "other/b.jpg")
  assert find(tmp_path) == ["a.jpg", "other/b.jpg"]


def test_links_count_once(tmp_path):
  make(tmp_path / "real", "c1/a.jpg")
  make(tmp_path / "set", "c0/b.jpg")
  (tmp_path / "set/c1").symlink_to(tmp_path / "real/c1")
  (tmp_path / "set/c2").symlink_to(tmp_path / "real/c1")
  (tmp_path / "set/up").symlink_to(tmp_path / "set")
  assert find(tmp_path / "set") == ["c0/b.jpg", "c1/a.jpg"]


def test_a_pipe_does_not_count(tmp_path):
  os.mkfifo(tmp_path / "a.jpg")
  make(tmp_path, "b.jpg")
  assert find(tmp_path) == ["b.jpg"]
  with pytest.raises(ConfigError, match="pipe"):
    finder.check_file(tmp_path / "a.jpg")


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(ConfigError, match="No such file"):
    find(tmp_path / "absent")


def test_home_is_expanded_and_addresses_are_not():
  assert finder.expand("~/a") == os.path.expanduser("~/a")
  assert finder.expand("gs://b/~a") == "gs://b/~a"
