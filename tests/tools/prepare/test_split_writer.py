"""Splits are written whole or not at all, and stopped runs go on."""

import contextlib
import dataclasses
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.tools.prepare import raw_files
from tools.prepare import tfds_folder
from tools.prepare.builder_writer import BuilderWriter
from tools.prepare.images import ImagesReader
from tools.prepare.split_writer import SplitWriter
from tools.prepare.writer import Target
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError

NUM_IMAGES = 40
# Many small files, and all examples measured first.
SMALL_SHARDS = SplitWriter(shard_bytes=1000, sample_size=NUM_IMAGES)
BUILDER_WRITER = BuilderWriter(key_of=lambda item: item.name, num_bytes=len)
ROOT = pathlib.Path(__file__).resolve().parents[3]


@dataclasses.dataclass(frozen=True)
class StoppingReader(ImagesReader):
  """A reader that is stopped when it makes an example for the second time.

  The first time the example is measured, the second time it is written.
  """
  stop_at: int | None = None
  error: type[BaseException] = RuntimeError
  made: list[int] = dataclasses.field(default_factory=list)

  def make_example(self, position, item):
    self.made.append(position)
    if position == self.stop_at and self.made.count(position) > 1:
      raise self.error("stopped")
    return super().make_example(position, item)


def save_images(folder, count=NUM_IMAGES):
  for number in range(count):
    raw_files.save(folder / f"{number}.png", raw_files.gradient() + number)


def target_in(folder, name="photos"):
  return Target(name, str(folder / "out"))


def left_overs(folder):
  return list((folder / "out").glob(".*"))


def shards(target):
  return sorted(target.folder.glob("*.tfrecord*"))


def test_a_stopped_run_goes_on_with_the_missing_files(tmp_path, capsys):
  raw = tmp_path / "raw"
  save_images(raw)
  whole = target_in(tmp_path, "whole")
  ImagesReader([raw], "train").prepare(whole, SMALL_SHARDS)
  target = target_in(tmp_path)
  stopped = StoppingReader([raw], "train", stop_at=30)
  with pytest.raises(RuntimeError, match="stopped"):
    stopped.prepare(target, SMALL_SHARDS)
  assert not target.folder.exists()
  capsys.readouterr()
  resumed = StoppingReader([raw], "train")
  resumed.prepare(target, SMALL_SHARDS)
  assert "Going on where a run was stopped" in capsys.readouterr().out
  # The sample is made again, and less than half of the examples.
  assert NUM_IMAGES < len(resumed.made) < 1.5 * NUM_IMAGES
  assert len(shards(target)) > 4
  for path, whole_path in zip(shards(target), shards(whole), strict=True):
    assert path.read_bytes() == whole_path.read_bytes()
  assert not left_overs(tmp_path)


def prepare_with_each_writer(raw, data_dir):
  for name, writer in (("split", SplitWriter()), ("builder", BUILDER_WRITER)):
    target = Target(name, str(data_dir))
    ImagesReader([raw], "train").prepare(target, writer)


def prepare_until_stopped(raw, data_dir):
  reader = StoppingReader([raw], "train", stop_at=2)
  with pytest.raises(RuntimeError, match="stopped"):
    reader.prepare(Target("photos", str(data_dir)), SMALL_SHARDS)


PREPARE = """
import pathlib, sys
from tests.tools.prepare import test_split_writer
raw, data_dir, stopped = map(pathlib.Path, sys.argv[1:])
test_split_writer.prepare_with_each_writer(raw, data_dir)
test_split_writer.prepare_until_stopped(raw, stopped)
"""


@pytest.fixture(scope="module")
def other_process(tmp_path_factory):
  """A folder of raw images, and what another process makes of them.

  It is one process for all tests, because most of its time is imports. Python
  hashes strings otherwise in it.
  """
  folder = tmp_path_factory.mktemp("other")
  raw = folder / "raw"
  save_images(raw, 3)
  command = [sys.executable, "-c", PREPARE, raw, folder / "theirs",
             folder / "out"]
  environment = {**os.environ, "PYTHONHASHSEED": "1"}
  subprocess.run(command, check=True, cwd=ROOT, env=environment)
  return folder


def test_another_process_finds_the_files_of_the_stopped_one(other_process):
  before = left_overs(other_process)
  assert before
  prepare_until_stopped(other_process / "raw", other_process / "out")
  assert left_overs(other_process) == before


def test_two_processes_write_the_same_bytes(other_process):
  """So a run goes on where its data was deleted and prepared again."""
  prepare_with_each_writer(other_process / "raw", other_process / "ours")
  for name in ("split", "builder"):
    theirs, = (other_process / "theirs" / name).rglob("*.tfrecord*")
    ours, = (other_process / "ours" / name).rglob("*.tfrecord*")
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_torn_run_leaves_the_data_set_as_it_was(tmp_path):
  raw = tmp_path / "raw"
  save_images(raw, 3)
  target = target_in(tmp_path)
  ImagesReader([raw], "train").prepare(target)
  before = contents_of(target)
  torn = StoppingReader([raw], "validation", stop_at=1,
                        error=KeyboardInterrupt)
  with pytest.raises(KeyboardInterrupt):
    torn.prepare(target)
  assert contents_of(target) == before
  assert not list((tmp_path / "out").glob(".prepare_*"))


def contents_of(target):
  return {path.name: path.read_bytes() for path in target.folder.iterdir()}


def fail_to_merge(*arguments):
  raise RuntimeError("merge")


def test_what_is_left_of_other_files_is_not_gone_on_with(tmp_path):
  path = tmp_path / "raw/x.png"
  reader = ImagesReader([tmp_path / "raw"], "train")
  target = target_in(tmp_path)
  for number in range(2):
    raw_files.save(path, raw_files.gradient() + number)
    with pytest.raises(RuntimeError, match="merge"):
      reader.prepare(target, SplitWriter(merge=fail_to_merge))
    (left,) = left_overs(tmp_path)
    assert len(list(left.glob("*.tfrecord-*"))) == 1
  # Another split is none of its business.
  ImagesReader([tmp_path / "raw"], "test").prepare(target)
  assert left.is_dir()
  reader.prepare(target)
  assert not left_overs(tmp_path)
  (example,) = raw_files.read_examples("photos", "train", target.data_dir)
  assert example["image"] == path.read_bytes()


def test_a_running_command_is_not_disturbed(tmp_path):
  save_images(tmp_path / "raw", 3)
  reader = ImagesReader([tmp_path / "raw"], "train")
  target = target_in(tmp_path)

  def run_again(*arguments):
    with pytest.raises(ConfigError, match="is in use by process"):
      reader.prepare(target)
    tfds_folder.merge(*arguments)

  reader.prepare(target, SplitWriter(merge=run_again))
  assert len(raw_files.read_examples("photos", "train", target.data_dir)) == 3


@dataclasses.dataclass(frozen=True)
class OvertakenReader(ImagesReader):
  """A reader that calls `overtake` when it makes example number `at`."""
  at: int = 0
  overtake: Callable[[], None] | None = None
  made: list[int] = dataclasses.field(default_factory=list)

  def make_example(self, position, item):
    self.made.append(position)
    if len(self.made) == self.at:
      self.overtake()
    return super().make_example(position, item)


# The split writer measures three examples before it writes them.
@pytest.mark.parametrize(
    "writer,last", [(SplitWriter(), 6), (BUILDER_WRITER, 3)])
@pytest.mark.parametrize("raw", ["raw", "other"])
def test_a_command_that_lost_its_lock_writes_nothing(
    tmp_path, writer, last, raw):
  save_images(tmp_path / "raw", 3)
  save_images(tmp_path / "other", 4)
  target = dataclasses.replace(target_in(tmp_path), overwrite=True)
  theirs = {}

  def overtake():
    (lock_path,) = pathlib.Path(target.data_dir).glob(".prepare_*.lock")
    lock_path.unlink()
    ImagesReader([tmp_path / raw], "train").prepare(target, writer)
    theirs.update(contents_of(target))

  reader = OvertakenReader(
      [tmp_path / "raw"], "train", at=last, overtake=overtake)
  with pytest.raises(Locked, match="this process lost its lock"):
    reader.prepare(target, writer)
  assert theirs
  assert contents_of(target) == theirs
  assert not list((tmp_path / "out").glob(".prepare_*"))


@pytest.mark.parametrize(
    "writer,last", [(SplitWriter(), 6), (BUILDER_WRITER, 3)])
def test_a_command_that_lost_its_lock_leaves_the_files_of_the_next(
    tmp_path, writer, last):
  save_images(tmp_path / "raw", 3)
  target = target_in(tmp_path)
  data_dir = pathlib.Path(target.data_dir)
  next_lock = Lock(data_dir / ".prepare_photos.lock", "photos")
  theirs = data_dir / ".prepare_photos/theirs"

  def overtake():
    (data_dir / ".prepare_photos.lock").unlink()
    next_lock.acquire()
    theirs.parent.mkdir(exist_ok=True)
    theirs.touch()

  reader = OvertakenReader(
      [tmp_path / "raw"], "train", at=last, overtake=overtake)
  with pytest.raises(Locked, match="it was taken over by process"):
    reader.prepare(target, writer)
  assert theirs.exists()
  assert not target.folder.exists()
  next_lock.check()
  next_lock.release()


def test_a_disk_that_is_too_small_is_an_error(tmp_path):
  save_images(tmp_path / "raw", 3)
  reader = ImagesReader([tmp_path / "raw"], "train")
  full_disk = SplitWriter(free_bytes=lambda folder: 0)
  with pytest.raises(ConfigError, match="need about 0 MB, 0 MB are free") as e:
    reader.prepare(target_in(tmp_path), full_disk)
  assert "--data_dir" in str(e.value)
  assert not (tmp_path / "out").exists()


def split_names(target):
  info = tfds_folder.read_info(target.folder)
  return [split["name"] for split in info["splits"]]


def test_a_split_that_is_being_replaced_is_not_listed(tmp_path):
  """Whenever the move stops, the description fits the files."""
  save_images(tmp_path / "raw", 4)
  target = dataclasses.replace(target_in(tmp_path), overwrite=True)
  for split in ("train", "test"):
    ImagesReader([tmp_path / "raw"], split).prepare(target)
  save_images(tmp_path / "new", 3)
  reader = ImagesReader([tmp_path / "new"], "train")
  # In the place of a new file, a folder: it cannot be moved there.
  obstacle = target.folder / "photos-train.tfrecord-00001-of-00003"
  obstacle.mkdir()
  one_each = SplitWriter(shard_bytes=1)
  with pytest.raises(OSError):
    reader.prepare(target, one_each)
  assert split_names(target) == ["test"]
  assert len(raw_files.read_examples("photos", "test", target.data_dir)) == 4
  obstacle.rmdir()
  reader.prepare(target, one_each)
  assert split_names(target) == ["test", "train"]
  assert len(raw_files.read_examples("photos", "train", target.data_dir)) == 3
  # The files of the old split are gone.
  assert len(shards(target)) == 1 + 3


@contextlib.contextmanager
def largest_file(num_bytes):
  """No file of this process may be longer, as on a disk that is full."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("writer", [SplitWriter(), BUILDER_WRITER])
def test_a_disk_that_fills_up_leaves_the_data_set_as_it_was(tmp_path, writer):
  save_images(tmp_path / "raw", 3)
  target = dataclasses.replace(target_in(tmp_path), overwrite=True)
  ImagesReader([tmp_path / "raw"], "train").prepare(target)
  before = contents_of(target)
  noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
  raw_files.save(tmp_path / "large/0.png", noise)
  reader = ImagesReader([tmp_path / "large"], "train")
  with largest_file(8000), pytest.raises(ConfigError) as error:
    reader.prepare(target, writer)
  assert "--data_dir: " in str(error.value)
  assert "File too large. No unfinished split" in str(error.value)
  assert contents_of(target) == before
  assert not list((tmp_path / "out").glob(".*/**/*.tfrecord*"))
  reader.prepare(target, writer)
  (example,) = raw_files.read_examples("photos", "train", target.data_dir)
  assert example["image"] == (tmp_path / "large/0.png").read_bytes()
  assert not left_overs(tmp_path)


def test_files_hold_nearly_equal_numbers_of_examples(tmp_path):
  save_images(tmp_path / "raw", 10)
  sizes = [path.stat().st_size for path in (tmp_path / "raw").iterdir()]
  target = target_in(tmp_path)
  ImagesReader([tmp_path / "raw"], "train").prepare(
      target, SplitWriter(shard_bytes=sum(sizes) // 3))
  info = tfds_folder.read_info(target.folder)
  lengths = [int(length) for length in info["splits"][0]["shardLengths"]]
  assert sum(lengths) == 10
  assert len(lengths) == len(shards(target)) > 2
  assert np.ptp(lengths) <= 1
