"""Locks: one owner at a time, and none that is dead."""

import dataclasses
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from uvim import lock
from uvim.lock import Lock, Locked
from uvim.registry import ConfigError

HOLD = """
import sys, time
from uvim.lock import Lock
Lock(sys.argv[1], "W").acquire()
print("held", flush=True)
time.sleep(60)
"""


def process_that_holds(path):
  process = subprocess.Popen(
      [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE,
      text=True)
  assert process.stdout.readline() == "held\n"
  return process


def on_another_machine(**changes):
  return dataclasses.replace(
      lock._this_process(), host="node7", machine="node7/other", **changes)


def test_a_live_owner_is_told(tmp_path):
  process = process_that_holds(tmp_path / "run.lock")
  try:
    with pytest.raises(Locked, match=f"W is in use by process {process.pid} "):
      Lock(tmp_path / "run.lock", "W").acquire()
  finally:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("is_reaped", (True, False))
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, is_reaped):
  process = process_that_holds(tmp_path / "run.lock")
  process.send_signal(signal.SIGKILL)
  if is_reaped:
    process.wait()
  else:
    # It is over, but still has its number: a zombie.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
  with Lock(tmp_path / "run.lock", "W") as held:
    held.check()
  process.communicate()
  assert not list(tmp_path.iterdir())


def test_a_later_process_of_the_same_number_is_no_owner(tmp_path):
  first = dataclasses.replace(lock._this_process(), born="1")
  Lock(tmp_path / "run.lock", "W", owner=first).acquire()
  with Lock(tmp_path / "run.lock", "W") as held:
    held.check()


def test_an_owner_on_another_machine_that_counts_is_alive(tmp_path):
  other = Lock(tmp_path / "run.lock", "W", owner=on_another_machine(),
               beat_seconds=0.1)
  with other, pytest.raises(Locked, match="on node7"):
    Lock(tmp_path / "run.lock", "W", dead_after_seconds=30).acquire()


def test_an_owner_on_another_machine_that_stands_still_is_dead(tmp_path):
  other = Lock(tmp_path / "run.lock", "W", owner=on_another_machine(),
               beat_seconds=1e6)
  other.acquire()
  with Lock(tmp_path / "run.lock", "W", dead_after_seconds=0.5) as held:
    held.check()
    # The first owner only slept. It learns that it is too late.
    with pytest.raises(Locked, match="lost its lock"):
      other.check()
    other.release()
    held.check()


def test_a_damaged_lock_file_does_not_stay_for_ever(tmp_path):
  (tmp_path / "run.lock").write_bytes(b"\0")
  with Lock(tmp_path / "run.lock", "W", dead_after_seconds=0.5) as held:
    held.check()


def make_dangling_link(path):
  path.symlink_to(path.with_name("nowhere"))


def make_link_to_itself(path):
  path.symlink_to(path)


@pytest.mark.parametrize(
    "make", [make_dangling_link, make_link_to_itself, os.mkdir, os.mkfifo])
def test_what_is_no_file_is_told_and_kept(tmp_path, make):
  path = tmp_path / "run.lock"
  make(path)
  held = Lock(path, "--workdir W")
  with pytest.raises(ConfigError) as error:
    held.acquire()
  assert str(error.value) == (
      f"--workdir W cannot be locked: {path} is no plain file. Delete or move "
      "it.")
  assert list(tmp_path.iterdir()) == [path]


def test_of_many_who_want_a_dead_lock_one_gets_it(tmp_path):
  dead = dataclasses.replace(lock._this_process(), born="1")
  Lock(tmp_path / "run.lock", "W", owner=dead).acquire()
  winners = []

  def start():
    # Each thread stands for a process: it has an owner of its own.
    mine = Lock(tmp_path / "run.lock", "W")
    try:
      mine.acquire()
    except Locked:
      return
    winners.append(mine)

  threads = [threading.Thread(target=start) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(winners) == 1
  winners[0].check()


def test_who_was_slow_leaves_the_lock_of_who_was_faster(tmp_path):
  path = tmp_path / "run.lock"
  dead = dataclasses.replace(lock._this_process(), born="1")
  Lock(path, "W", owner=dead).acquire()
  slow = Lock(path, "W")
  seen_by_the_slow_one = path.read_bytes()
  with Lock(path, "W") as held:
    slow._remove_dead(seen_by_the_slow_one)
    held.check()


def test_waiting_ends_when_the_owner_is_done(tmp_path):
  first = Lock(tmp_path / "run.lock", "W")
  first.acquire()
  threading.Timer(0.3, first.release).start()
  second = Lock(tmp_path / "run.lock", "W")
  second.acquire(waits=True)
  second.check()
  second.release()


DIES = """
import os, signal, sys
from uvim.lock import Lock
def link(draft, path):
  os.kill(os.getpid(), signal.SIGKILL)
Lock(sys.argv[1], "W", link=link).acquire()
"""


def test_a_lock_has_its_content_when_it_appears(tmp_path):
  """Nobody has to watch the empty one of a killed process for a minute."""
  path = tmp_path / "run.lock"
  killed = subprocess.run([sys.executable, "-c", DIES, path])
  assert killed.returncode == -signal.SIGKILL
  draft, = tmp_path.iterdir()
  assert draft != path
  assert json.loads(draft.read_text())["beat"] == 0
  with Lock(path, "W"):
    assert list(tmp_path.iterdir()) == [path]


def no_link(draft, path):
  raise OSError(errno.EOPNOTSUPP, "no hard links")


def test_a_disk_without_hard_links_has_locks_too(tmp_path):
  path = tmp_path / "run.lock"
  with Lock(path, "W", link=no_link) as held:
    held.check()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(Locked):
      Lock(path, "W", link=no_link).acquire()
    with pytest.raises(Locked):
      Lock(path, "W").acquire()
  assert not list(tmp_path.iterdir())


def test_the_name_of_a_lock_may_be_as_long_as_names_can_be(tmp_path):
  with Lock(tmp_path / ("a" * 255), "W") as held:
    held.check()


@pytest.mark.parametrize("has_links", (True, False))
def test_a_full_disk_leaves_no_lock_that_nobody_holds(tmp_path, has_links):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def fill_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

  def fill_disk_and_fail(draft, path):
    fill_disk()
    no_link(draft, path)

  link = fill_disk_and_fail
  if has_links:
    link = os.link
    fill_disk()
  try:
    with pytest.raises(OSError):
      Lock(tmp_path / "run.lock", "W", link=link).acquire()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert not list(tmp_path.iterdir())
  with Lock(tmp_path / "run.lock", "W") as held:
    held.check()
