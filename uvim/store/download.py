"""Files at https:// addresses, kept in the user's cache folder.

A file is there only when it is whole and holds arrays. Beside it lies its
sha256, from the day it was first used: neither the server nor anybody here can
put another file in its place without a word.

The package `pooch` would replace the smaller half of this: it takes other
protocols and redirects to them, and does not compare what came with the size
that was announced.
"""

import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator

from uvim import files, progress
from uvim.lock import Lock
from uvim.registry import ConfigError

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20

Read = Callable[[str], Iterator[bytes]]

# A part of an address that may be a name on disk as it is.
_PLAIN_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+,=@:-]{0,150}")
_SHA256 = ".sha256"
_SAFETENSORS = ".safetensors"


def fetch(address: str, read: Read | None = None) -> pathlib.Path:
  """The local copy of a file of arrays, downloaded if it is not there yet.

  Others that want the same file meanwhile wait for it.

  Args:
    address: https://…, of a `.safetensors` if the name ends so, else of a
      `.npz`.
    read: gives the bytes at an address; None: asks the server.

  Returns:
    `cache_path(address)`.

  Raises:
    ConfigError: no network, no file of arrays, another one than at the first
      time; with the reason, and what to do.
  """
  path = cache_path(address)
  try:
    if not path.exists():
      path.parent.mkdir(parents=True, exist_ok=True)
      lock = Lock(_beside(path, "lock"), address)
      lock.acquire(waits=True)
      try:
        # Whoever held the lock before may have fetched it.
        if not path.exists():
          _download(address, path, read or _read)
      finally:
        lock.release()
  except ConfigError:
    raise
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise ConfigError(
        f"Cannot fetch {address}: {error}. Without a network, fetch it "
        f"elsewhere and put it at {path}, or give the path of a copy."
    ) from error
  _check_kept(path, address)
  return path


def cache_path(address: str) -> pathlib.Path:
  """Where the file at an https:// address is kept.

  Below $XDG_CACHE_HOME/uvim, or ~/.cache/uvim.

  Raises:
    ConfigError: no address of a file on a server.
  """
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  folder = pathlib.Path(base).expanduser() / "uvim"
  rest = address.removeprefix("https://")
  parts = rest.split("/")
  # Some servers take %2e for a dot.
  if ".." in map(urllib.parse.unquote, parts):
    raise ConfigError(f"{address}: an address must not hold '..'.")
  if not parts[0]:
    raise ConfigError(f"{address}: expected https://HOST/…/FILE.npz.")
  # Readable where it can be. Anything else, such as a long question, could
  # leave the folder, be too long, or be two addresses of one name.
  is_plain = all(_PLAIN_PART.fullmatch(part) for part in parts)
  if is_plain and len(parts) > 1 and not rest.endswith(_SHA256):
    return folder.joinpath(*parts)
  digest = hashlib.sha256(rest.encode(errors="surrogateescape"))
  return folder / "other" / f"{digest.hexdigest()}{_ending(address)}"


def _ending(address: str) -> str:
  """'.safetensors' or '.npz': what a file at an address is."""
  name = address.partition("?")[0]
  return _SAFETENSORS if name.endswith(_SAFETENSORS) else ".npz"


def _download(address: str, path: pathlib.Path, read: Read) -> None:
  """Fetches a file under a name of its own; renames it when it is whole."""
  # What killed processes left; nobody else works here, thanks to the lock.
  for name in os.listdir(path.parent):
    if name.startswith(f".{path.name}.") and name.endswith(".part"):
      (path.parent / name).unlink(missing_ok=True)
  part = _beside(path, f"{uuid.uuid4().hex}.part")
  # A new file, never one that a link leads to.
  flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY
  try:
    with open(os.open(part, flags, 0o666), "wb") as file:
      for chunk in read(address):
        file.write(chunk)
      file.flush()
      os.fsync(file.fileno())
    ending = _ending(address)
    if not _ARRAY_FILES[ending](part):
      raise OSError(f"what came is no {ending}")
    _check_same(part, path, f"{address} is another file now")
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def _check_kept(path: pathlib.Path, address: str) -> None:
  """Checks a file of the cache, which may also have been put there by hand."""
  remedy = f"Delete it, and it is fetched from {address} anew"
  ending = _ending(address)
  if not _ARRAY_FILES[ending](path):
    raise ConfigError(f"{path} is no {ending}. {remedy}.")
  _check_same(path, path, f"{path} has changed since. {remedy}")


def _check_same(file: pathlib.Path, path: pathlib.Path, what: str) -> None:
  """Compares a file with the sha256 kept for `path`, or keeps its own."""
  found = _sha256_of(file)
  list_path = path.with_name(path.name + _SHA256)
  try:
    known, *_ = list_path.read_text().split() or [""]
  except FileNotFoundError:
    # A cache that nobody may write to works too.
    with contextlib.suppress(OSError):
      files.write_text(list_path, f"{found}  {path.name}\n")
    return
  except (OSError, ValueError) as error:
    raise ConfigError(f"{list_path} cannot be read: {error}. Delete it if you "
                      f"trust {path}.") from error
  if found != known:
    raise ConfigError(f"{what}: its sha256 is {found}, at its first use it was "
                      f"{known}. If you trust it, delete {list_path}.")


def _sha256_of(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _is_npz(path: pathlib.Path) -> bool:
  """Whether a file is an archive of arrays; reads only its table."""
  try:
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
  # zipfile has many errors for damaged tables.
  except Exception:  # noqa: BLE001
    return False
  return bool(names) and all(name.endswith(".npy") for name in names)


def _is_safetensors(path: pathlib.Path) -> bool:
  """Whether a file begins as such a file does; reads nothing of its arrays."""
  import safetensors
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return bool(list(file.keys()))
  except (safetensors.SafetensorError, OSError):
    return False


# Ending → whether a file is what its name says.
_ARRAY_FILES = {".npz": _is_npz, _SAFETENSORS: _is_safetensors}


def _beside(path: pathlib.Path, ending: str) -> pathlib.Path:
  return path.with_name(f".{path.name}.{ending}")


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
  """Follows no server to another protocol."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    if not newurl.startswith("https://"):
      fp.close()
      raise OSError(f"the server sends us on to {newurl}")
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(address: str) -> Iterator[bytes]:
  """The bytes at an address; says their number, and shows how far it is.

  Raises:
    OSError, HTTPException, ValueError: also when fewer came than were
      announced.
  """
  from tqdm import tqdm
  opener = urllib.request.build_opener(_HttpsOnly)
  try:
    reply = opener.open(address, timeout=TIMEOUT_SECONDS)
  except urllib.error.HTTPError as e:
    e.close()  # It holds the connection.
    raise
  with reply:
    announced = reply.headers.get("Content-Length") or ""
    # Without it nobody could tell a whole file from half of one.
    if not re.fullmatch("[0-9]+", announced):
      raise OSError("the server does not say how large it is")
    size = int(announced)
    print(f"Fetching {address}: {size / 1e6:,.1f} MB", file=sys.stderr)
    _, _, file_name = address.rpartition("/")
    bar = tqdm(total=size, desc=file_name, unit="B", unit_scale=True,
               mininterval=progress.interval())
    with bar:
      while chunk := reply.read(CHUNK_BYTES):
        bar.update(len(chunk))
        yield chunk
      if bar.n != size:
        raise OSError(f"it broke off after {bar.n:,} of {size:,} bytes")
