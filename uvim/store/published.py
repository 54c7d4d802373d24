"""Published weights: their names, their addresses, and what was fetched.

Wherever a config takes a checkpoint, it takes a name of this table or an
https:// address too. Both are fetched once, into the user's cache folder.

Sources: the table of the released README for UViM; for ViT the recommended
files of "How to train your ViT?" (Steiner et al.), one per size.
"""

import http.client
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from uvim import progress, registry
from uvim.store import checkpoint

HOST = "https://storage.googleapis.com"
# 'uvim-panoptic' means the weights of the family that asks.
STAGES = {"vqvae": "stage1", "lm": "stage2"}
_FILE_STAGES = {"stage1": "stageI", "stage2": "stageII"}


def _uvim_models() -> dict[str, str]:
  """Name → address of both stages of every task."""
  models = {}
  for task in ("panoptic", "depth", "color"):
    for stage, file_stage in _FILE_STAGES.items():
      file = f"{task}_{file_stage}_params.npz"
      models[f"uvim-{task}-{stage}"] = f"{HOST}/big_vision/uvim/{file}"
  return models


MODELS = _uvim_models()
# Size → the augmentation and weight decay that suited it best.
_RECIPES = {
    "Ti/16": "none-wd_0.03",
    "S/32": "none-wd_0.1",
    "S/16": "light1-wd_0.03",
    "B/32": "light1-wd_0.1",
    "B/16": "medium1-wd_0.1",
    "B/8": "medium2-wd_0.1",
    "L/16": "strong1-wd_0.1",
}


def _vits() -> dict[str, str]:
  """Name → address of every pretrained ViT."""
  vits = {}
  for size, recipe in _RECIPES.items():
    file_size = size.replace("/", "_")
    file = f"{file_size}-i21k-300ep-lr_0.001-aug_{recipe}-do_0.0-sd_0.0.npz"
    vits[f"howto-i21k-{size}"] = f"{HOST}/vit_models/augreg/{file}"
  return vits


VITS = _vits()
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20

Params = dict[str, Any]


def load_params(
    path: str | os.PathLike,
    *,
    kind: str | None = None,
    load: Callable[[str], Params] = checkpoint.load_params,
) -> Params:
  """`checkpoint.load_params` of whatever `path` names.

  Args:
    path: see `locate`.
    kind: see `locate`.
    load: reads what lies at the path.

  Raises:
    ConfigError: as `locate` and `checkpoint.load_params`.
  """
  path = locate(path, kind=kind)
  try:
    return load(path)
  except registry.ConfigError:
    raise
  except Exception as e:  # Every client of a remote storage has its own.
    if "://" not in path:
      raise
    raise registry.ConfigError(
        f"Cannot read {path}: {e}. gs:// needs the network, and TensorFlow or "
        "the package gcsfs; what is public there is also at "
        f"{HOST}/BUCKET/FILE.") from e


def locate(path: str | os.PathLike, *, kind: str | None = None) -> str:
  """A path that can be opened, for all that a config may name.

  Args:
    path: a local path or gs://, which come back as they are; an https://
      address or a name ('uvim-panoptic', 'howto-i21k-L/16'), which are
      fetched unless they were before. A name wins over a file of that name:
      write './NAME' for the file.
    kind: the family whose weights 'uvim-TASK' means. None, or a family of which
      nothing is published: only the full names 'uvim-TASK-stage1' and
      'uvim-TASK-stage2' are known.

  Raises:
    ConfigError: an unknown name, no network, a download that breaks off.
  """
  path = os.fspath(path)
  names = dict(MODELS | VITS)
  if kind in STAGES:
    ending = f"-{STAGES[kind]}"
    for name, address in MODELS.items():
      if name.endswith(ending):
        names[name.removesuffix(ending)] = address
  if path in names:
    return str(fetch(names[path]))
  if path.startswith("https://"):
    return str(fetch(path))
  if path.startswith("http://"):
    raise registry.ConfigError(
        f"{path}: weights are fetched over https:// only, so that nobody on "
        "the way can change them.")
  if re.match("(uvim|howto)-", path) and not os.path.exists(path):
    raise registry.unknown("weights", path, names)
  return path


def cache_path(address: str) -> pathlib.Path:
  """Where the file at an https:// address is kept.

  Below $XDG_CACHE_HOME/uvim, or ~/.cache/uvim.
  """
  address_path = address.removeprefix("https://")
  name = urllib.parse.quote(address_path, safe="/")
  # It could leave the folder.
  if ".." in name.split("/"):
    raise registry.ConfigError(f"{address}: an address must not hold '..'.")
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return pathlib.Path(base).expanduser() / "uvim" / name


def fetch(
    address: str,
    read: Callable[[str], Iterator[bytes]] | None = None,
) -> pathlib.Path:
  """The local copy of a file, downloaded if it is not there yet.

  Args:
    address: https://….
    read: gives the bytes at an address; None: asks the server.

  Returns:
    `cache_path(address)`; it exists only when it is complete.

  Raises:
    ConfigError: with the reason, and what to do without a network.
  """
  path = cache_path(address)
  if path.exists():
    return path
  read = read or _read
  # Under a name of its own until it is complete; see `uvim.files.replace_file`.
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("wb") as file:
      for chunk in read(address):
        file.write(chunk)
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
  except (OSError, http.client.HTTPException) as e:
    raise registry.ConfigError(
        f"Cannot fetch {address}: {e}. Without a network, fetch it elsewhere "
        f"and put it at {path}, or give the path of a copy.") from e
  finally:
    part.unlink(missing_ok=True)
  return path


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
  """Follows no server to another protocol."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    if not newurl.startswith("https://"):
      fp.close()
      raise OSError(f"the server sends us on to {newurl}")
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(address: str) -> Iterator[bytes]:
  """The bytes at an address, with a progress bar.

  Raises:
    OSError, HTTPException: also when fewer came than were announced.
  """
  from tqdm import tqdm
  opener = urllib.request.build_opener(_HttpsOnly)
  try:
    reply = opener.open(address, timeout=TIMEOUT_SECONDS)
  except urllib.error.HTTPError as e:
    e.close()  # It holds the connection.
    raise
  with reply:
    announced = reply.headers.get("Content-Length")
    # Without it nobody could tell a whole file from half of one.
    if announced is None:
      raise OSError("the server does not say how large it is")
    size = int(announced)
    _, _, file_name = address.rpartition("/")
    bar = tqdm(total=size, desc=file_name, unit="B", unit_scale=True,
               mininterval=progress.interval())
    with bar:
      while chunk := reply.read(CHUNK_BYTES):
        bar.update(len(chunk))
        yield chunk
      if bar.n != size:
        raise OSError(f"it broke off after {bar.n:,} of {size:,} bytes")
