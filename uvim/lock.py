"""A lock that says who holds it, and that a dead owner does not keep.

The lock is a file. Its owner writes into it: host, process, start time, and a
number that it counts up every few seconds. Another process that finds the file
decides like this:

* The owner is of the same machine: the system tells whether it is alive.
* It is of another machine (a cluster's shared disk): the number tells. If it
  changes, the owner is alive; if it stands still for a minute, it is dead. No
  clocks are compared, since those of two machines may differ.

A live owner is told in one line. A dead owner's lock is taken over. An owner
that lost its lock, such as a laptop that slept, learns it from `check`.

Layer 0: no imports but the standard library and the registry.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import pathlib
import platform
import stat
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from uvim.registry import ConfigError

BEAT_SECONDS = 5.0
# An owner whose number stands still for so long is dead. A shared disk may
# show a change late, but hardly by half a minute.
DEAD_AFTER_SECONDS = 60.0
# The file has one size, so that a reader never sees it cut short.
_FILE_BYTES = 1024
_POLL_SECONDS = 0.2
# A lock file that has no name yet: its token and an ending.
_DRAFTS = f".{'[0-9a-f]' * 32}.draft"

log = logging.getLogger(__name__)


class Locked(ConfigError):
  """Somebody else holds the lock."""


@dataclasses.dataclass(frozen=True)
class Owner:
  """Who holds a lock.

  Attributes:
    host: name of the machine, for people.
    machine: tells machines and containers apart; process numbers mean
      something only within one.
    pid: number of the process.
    born: tells a process from a later one of the same number; "" if unknown.
    started: when it took the lock, for people.
    token: belongs to one `Lock` of one process.
  """
  host: str
  machine: str
  pid: int
  born: str
  started: str
  token: str

  def __str__(self) -> str:
    return f"process {self.pid} on {self.host}, since {self.started}"

  @property
  def is_here(self) -> bool:
    """Whether this machine can tell if the owner lives."""
    return self.machine == _machine()

  @property
  def is_alive(self) -> bool:
    """Whether the process is still there; ask only if it `is_here`."""
    try:
      os.kill(self.pid, 0)
    except ProcessLookupError:
      return False
    except PermissionError:  # It is there, and somebody else's.
      pass
    born = _born(self.pid)
    return born == self.born or born == ""


class Lock:
  """Holds a lock file; use it in a `with` block, or call both methods."""

  def __init__(
      self,
      path: str | os.PathLike,
      what: str,
      *,
      owner: Owner | None = None,
      beat_seconds: float = BEAT_SECONDS,
      dead_after_seconds: float = DEAD_AFTER_SECONDS,
      link: Callable[..., None] = os.link,
  ):
    """Touches no file yet.

    Args:
      path: the lock file, on a local or shared disk.
      what: what is locked, for messages, such as "--workdir W".
      owner: who holds it; None: this process.
      beat_seconds: how often the owner counts up.
      dead_after_seconds: after how long without a change an owner on another
        machine counts as dead.
      link: gives a file a second name.
    """
    self._path = pathlib.Path(path)
    self._what = what
    self._owner = owner or _this_process()
    self._beat_seconds = beat_seconds
    self._dead_after_seconds = dead_after_seconds
    self._link = link
    self._file: int | None = None
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def __enter__(self) -> "Lock":
    self.acquire()
    return self

  def __exit__(self, *exc: Any) -> None:
    self.release()

  def acquire(self, *, waits: bool = False) -> None:
    """Takes the lock.

    Args:
      waits: waits until a live owner is done, instead of an error.

    Raises:
      Locked: a live process holds it.
      ConfigError: something else than a file has its name.
      OSError: the folder cannot be written.
    """
    self._path.parent.mkdir(parents=True, exist_ok=True)
    while not self._create():
      owner, content = self._read()
      if content is None:  # It was released just now.
        continue
      if self._is_dead(owner, content):
        self._remove_dead(content)
      elif waits or owner is None:
        # An owner that nobody could read has written its name by now.
        time.sleep(_POLL_SECONDS)
      else:
        raise Locked(f"{self._what} is in use by {owner}. Wait until it is "
                     "done, or stop it.")
    self._remove_drafts()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def release(self) -> None:
    """Gives the lock back; one that was lost stays with its new owner."""
    if self._file is None:
      return
    self._stop.set()
    self._thread.join()
    with contextlib.suppress(ConfigError, OSError):
      self.check()
      self._path.unlink()
    os.close(self._file)
    self._file = None

  def check(self) -> None:
    """Raises Locked if another process has taken the lock over."""
    owner, content = self._read()
    if owner is not None and owner.token == self._owner.token:
      return
    fate = f"{self._path} was deleted"
    if content is not None:
      fate = f"it was taken over by {owner or 'another process'}"
    raise Locked(f"{self._what}: this process lost its lock: {fate}. It stops, "
                 "so that two do not write to one place.")

  # ── The file ────────────────────────────────────────────────────────────

  def _create(self) -> bool:
    """Makes the file; False if there is one.

    It has its content when it appears: nobody could tell whose an empty one
    is, such as that of a process which is killed in between.
    """
    if os.path.lexists(self._path):
      return False
    # A short name: that of the lock may be as long as names can be.
    draft = self._path.with_name(f".{self._owner.token}.draft")
    is_ours = False
    try:
      self._open(draft)
      is_ours = self._give_name(draft)
    finally:
      with contextlib.suppress(OSError):
        draft.unlink()
      if not is_ours:
        self._close()
    return is_ours

  def _give_name(self, draft: pathlib.Path) -> bool:
    """Gives our file the name of the lock; False if another file has it."""
    try:
      self._link(draft, self._path)
    except FileExistsError:
      # A server of files may have done it and say so too late: two names.
      return os.fstat(self._file).st_nlink == 2
    except OSError:
      # A disk without hard links. There it is empty for a moment.
      self._close()
      return self._open_named()
    return True

  def _open_named(self) -> bool:
    """Makes the file under its name at once; False if there is one."""
    try:
      self._open(self._path)
    except FileExistsError:
      return False
    return True

  def _open(self, path: pathlib.Path) -> None:
    """Makes a file that names this owner, and keeps it open."""
    self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
      self._write(0)
    except OSError:
      # A full disk. The file is empty, and would be nobody's.
      path.unlink(missing_ok=True)
      raise

  def _close(self) -> None:
    if self._file is not None:
      os.close(self._file)
      self._file = None

  def _remove_drafts(self) -> None:
    """Removes what killed processes left; a live one makes its file again."""
    with contextlib.suppress(OSError):
      for draft in self._path.parent.glob(_DRAFTS):
        draft.unlink(missing_ok=True)

  def _write(self, beat: int) -> None:
    content = {**dataclasses.asdict(self._owner), "beat": beat}
    text = json.dumps(content).ljust(_FILE_BYTES - 1) + "\n"
    # Into our own file, though another may have its name by now.
    os.pwrite(self._file, text.encode(), 0)
    with contextlib.suppress(OSError):
      os.fsync(self._file)

  def _beat(self) -> None:
    """Counts up until `release`; runs in a thread."""
    beat = 0
    while not self._stop.wait(self._beat_seconds):
      beat += 1
      # A disk that is away for a moment must not end the run.
      with contextlib.suppress(OSError):
        self._write(beat)

  def _read(self) -> tuple[Owner | None, bytes | None]:
    """(owner, content); an owner that cannot be read and no file are None."""
    try:
      self._check_kind()
      content = self._path.read_bytes()
    except FileNotFoundError:
      return None, None
    try:
      values = json.loads(content)
      values.pop("beat")
      return Owner(**values), content
    except (ValueError, TypeError, KeyError, AttributeError):
      # Just made and not written yet, or damaged.
      return None, content

  def _check_kind(self) -> None:
    """Raises ConfigError for a link, a folder, a pipe and the like.

    A link may lead nowhere, and to read a pipe may take for ever.
    """
    if not stat.S_ISREG(self._path.lstat().st_mode):
      raise ConfigError(f"{self._what} cannot be locked: {self._path} is no "
                        "plain file. Delete or move it.")

  # ── The owner ───────────────────────────────────────────────────────────

  def _is_dead(self, owner: Owner | None, content: bytes) -> bool:
    """Whether the owner of a lock file with this content is gone."""
    if owner is not None and owner.is_here:
      return not owner.is_alive
    # Watches the file until it changes.
    log.warning("%s: to see if %s is alive takes up to %d s.", self._what,
                owner or "its owner", self._dead_after_seconds)
    end = time.monotonic() + self._dead_after_seconds
    while time.monotonic() < end:
      time.sleep(_POLL_SECONDS)
      _, newer = self._read()
      if newer != content:
        return False
    return True

  def _remove_dead(self, content: bytes) -> None:
    """Removes the lock file, if it still has this content."""
    with _exclusive(self._path.parent):
      _, now = self._read()
      # Otherwise another process was faster, and the lock is its own.
      if now == content:
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _exclusive(folder: pathlib.Path):
  """One process of this machine at a time; others wait a moment."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    # A disk without such locks works too, if with a smaller guard.
    with contextlib.suppress(OSError):
      fcntl.flock(handle, fcntl.LOCK_EX)
    yield
  finally:
    os.close(handle)


def _this_process() -> Owner:
  now = datetime.datetime.now().astimezone()
  pid = os.getpid()
  return Owner(
      host=platform.node(),
      machine=_machine(),
      pid=pid,
      born=_born(pid),
      started=now.isoformat(" ", "seconds"),
      token=uuid.uuid4().hex)


def _machine() -> str:
  """A name for what process numbers belong to: a start of a machine, and
  within it a container."""
  parts = [platform.node()]
  with contextlib.suppress(OSError):
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text()
    parts.append(boot.strip())
  with contextlib.suppress(OSError):
    parts.append(os.readlink("/proc/self/ns/pid"))
  return "/".join(parts)


def _born(pid: int) -> str:
  """When a process began, in ticks since the machine did.

  "" where the system does not tell, "ended" for a process that is over but
  whose parent has not asked for its exit code.
  """
  try:
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return ""
  # The name of the program comes second, in parentheses, and may hold spaces.
  after_name = text.rpartition(")")[2].split()
  if after_name[0] == "Z":
    return "ended"
  return after_name[19]
