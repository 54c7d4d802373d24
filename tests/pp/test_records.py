"""Records are read as they were written, or not at all."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from pp import records
from pp.records import Part, Records
from uvim.registry import ConfigError

CONTENTS = [b"first", b"", b"x" * 1000, bytes(range(256)), b"last"]


def write(path, contents):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for content in contents:
      writer.write(content)


def open_file(path):
  num = len(CONTENTS)
  return Records([Part(str(path), 0, num, num)], str(path.parent))


@pytest.fixture
def path(tmp_path, monkeypatch):
  """A file of `CONTENTS`, alone in its folder."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  folder = tmp_path / "data"
  folder.mkdir()
  write(folder / "a.tfrecord", CONTENTS)
  return folder / "a.tfrecord"


def flip(path, position, bit=0):
  """Flips a bit and keeps the times that a copying tool keeps."""
  stat = path.stat()
  content = bytearray(path.read_bytes())
  content[position] ^= 1 << bit
  path.write_bytes(content)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def indexes(path):
  return list((path.parent / ".offsets").glob("*.npy"))


def test_records_come_in_any_order(path):
  opened = open_file(path)
  assert opened.read([4, 0, 1, 1, 2, 3]) == [
      CONTENTS[index] for index in (4, 0, 1, 1, 2, 3)]
  assert opened.num_bytes == sum(map(len, CONTENTS))
  assert open_file(path).read(range(5)) == CONTENTS  # From the index.
  assert len(indexes(path)) == 1
  for index in (-1, 5):
    with pytest.raises(IndexError, match="of 5"):
      opened.read([index])


def test_every_flipped_bit_is_found(path):
  """No bit of a file can change without a message, or without harm."""
  shutil.copy2(path, path.with_name("sound"))
  size = path.stat().st_size
  rng = np.random.default_rng(0)
  for position in [*range(48), *rng.integers(size, size=30), size - 1]:
    flip(path, position, bit=int(rng.integers(8)))
    with pytest.raises(ConfigError, match="a.tfrecord: .*record [0-4] "):
      open_file(path).read(range(5))
    shutil.copy2(path.with_name("sound"), path)
  assert open_file(path).read(range(5)) == CONTENTS


def test_a_bit_that_flips_after_the_file_was_opened_is_found(path):
  opened = open_file(path)
  flip(path, 12)
  with pytest.raises(ConfigError, match="record 0 does not fit its checksum"):
    opened.read([0])
  assert opened.read([4]) == [b"last"]
  assert len(indexes(path)) == 1


@pytest.mark.parametrize("others", [
    [b"fir5t", *CONTENTS[1:]], [b"firs", b"t", *CONTENTS[2:]],
    [CONTENTS[0], *CONTENTS[:0:-1]]])
def test_other_content_of_the_same_size_and_time_is_found(path, others):
  stat = path.stat()
  opened = open_file(path)
  before = opened.checksum()
  write(path, others)
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  assert path.stat().st_size == stat.st_size
  # By a new process, though the index of the old content lies there.
  new = open_file(path)
  assert new.read(range(5)) == others
  assert new.checksum() != before
  # And by one that had opened it before.
  with pytest.raises(ConfigError, match="was changed or cut.*start again"):
    opened.read(range(5))


def test_a_damaged_index_is_made_again(path):
  open_file(path)
  index_path, = indexes(path)
  sound = index_path.read_bytes()
  for position in range(100, len(sound), 7):
    flip(index_path, position)
    assert open_file(path).read(range(5)) == CONTENTS
    assert index_path.read_bytes() == sound
  for content in (b"", sound[:-1], b"text"):
    index_path.write_bytes(content)
    assert open_file(path).read(range(5)) == CONTENTS


def test_the_index_is_used(path):
  open_file(path)
  index_path, = indexes(path)
  before = index_path.stat().st_mtime_ns
  open_file(path)
  assert index_path.stat().st_mtime_ns == before


def test_index_falls_back_to_the_users_cache(path, tmp_path):
  # A file where the folder should be stands for a read-only data_dir.
  (path.parent / ".offsets").write_text("")
  assert open_file(path).read(range(5)) == CONTENTS
  assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 16, 19, 40])
def test_a_truncated_file_is_named(path, cut):
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(ConfigError, match="a.tfrecord: cut short inside record"):
    open_file(path)


def test_a_file_cut_after_it_was_opened_is_named(path):
  opened = open_file(path)
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ConfigError, match="record 4 is not what it was"):
    opened.read([4])
  path.unlink()
  with pytest.raises(ConfigError, match="record 0 cannot be read: No such"):
    opened.read([0])


def test_a_lost_record_is_noticed(path):
  write(path, CONTENTS[:-1])
  with pytest.raises(ConfigError, match="holds 4 records.*says 5"):
    open_file(path)


def test_a_file_that_is_not_there_is_named(path):
  path.unlink()
  with pytest.raises(ConfigError, match="a.tfrecord: cannot be read: No such"):
    open_file(path)
  path.mkdir()
  with pytest.raises(ConfigError, match="a.tfrecord: cannot be read"):
    open_file(path)


def test_checksum_is_of_the_records_not_of_the_files(path):
  whole = open_file(path)
  first = path.with_name("first")
  second = path.with_name("second")
  write(first, CONTENTS[:2])
  write(second, CONTENTS[2:])
  parts = [Part(str(first), 0, 2, 2), Part(str(second), 0, 3, 3)]
  dealt = Records(parts, str(path.parent))
  assert dealt.checksum() == whole.checksum()
  assert dealt.read(range(5)) == CONTENTS
  swapped = Records(parts[::-1], str(path.parent))
  assert swapped.checksum() != whole.checksum()


def test_scan_agrees_with_tensorflow(path):
  places = records.scan(str(path))
  content = path.read_bytes()
  found = [content[offset:offset + length] for offset, length, _ in places]
  expected = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
  assert found == expected
