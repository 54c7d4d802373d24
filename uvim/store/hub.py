"""Files of the Hugging Face hub, by 'hf:OWNER/NAME[@REVISION][/FILE]'.

The hub's own client finds, fetches, keeps and uploads them; it is an optional
package. Its settings hold: HF_HUB_OFFLINE, HF_HOME, HF_TOKEN.
"""

import dataclasses
import os
import pathlib
import re
import sys
from typing import Any, Protocol

from uvim.registry import ConfigError
from uvim.store import pack

PREFIX = "hf:"
FILE = "model.safetensors"
# Large models have this in its place: a list of several files.
INDEX = f"{FILE}.index.json"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PATTERN = re.compile(
    rf"hf:(?P<repository>{_PART}/{_PART})"
    rf"(@(?P<revision>{_PART}))?"
    rf"(/(?P<file>({_PART}/)*{_PART}\.safetensors))?")


class Client(Protocol):
  """What is used of the package huggingface_hub."""

  def hf_hub_download(
      self, repo_id: str, filename: str, *, revision: str | None) -> str:
    """The path of a file in the hub's cache, after fetching it if need be."""

  def snapshot_download(
      self, repo_id: str, *, revision: str | None,
      allow_patterns: list[str]) -> str:
    """The folder of such files in the hub's cache, fetched if need be."""

  def create_repo(
      self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
    """Makes a repository, unless there is one and that is allowed."""

  def upload_folder(
      self, *, repo_id: str, folder_path: str, commit_message: str,
      allow_patterns: list[str]) -> Any:
    """Uploads such files of a folder as one commit."""


@dataclasses.dataclass(frozen=True)
class Address:
  """A file of the hub.

  Attributes:
    repository: 'OWNER/NAME'.
    revision: a branch, a tag or a commit; None: the main branch.
    file: its name in the repository.
  """
  repository: str
  revision: str | None
  file: str


def parse(text: str) -> Address:
  """The parts of 'hf:OWNER/NAME[@REVISION][/FILE.safetensors]'.

  Raises:
    ConfigError: not of that form. A revision holds no slash.
  """
  parts = _PATTERN.fullmatch(text)
  if not parts:
    raise ConfigError(f"{text!r}: expected hf:OWNER/NAME, with @REVISION and "
                      "/FILE.safetensors behind it if need be.")
  return Address(
      parts["repository"], parts["revision"], parts["file"] or FILE)


def fetch(text: str, client: Client | None = None) -> pathlib.Path:
  """The local copy of a file of the hub; prints the file's commit to stderr.

  Args:
    text: see `parse`.
    client: None: the package huggingface_hub.

  Raises:
    ConfigError: no such file, no network, the package is not installed.
  """
  address = parse(text)
  client = client or _package()
  path = _download(client, address, text)
  # The cache is ordered by commits: …/snapshots/COMMIT/FILE.
  commit = commit_of(path)
  print(f"{text}: {address.file} of commit {commit}", file=sys.stderr)
  return path


# What may be in a pack; the hub's patterns begin at the root of a repository.
_PACK_FILES = [*pack.FILES, *(f"{pack.STAGE_I}/{name}" for name in pack.FILES)]


def fetch_pack(text: str, client: Client | None = None) -> str | None:
  """The local copy of a pack of the hub; prints its commit to stderr.

  Args:
    text: 'hf:OWNER/NAME', maybe with '@REVISION' behind it.
    client: None: the package huggingface_hub.

  Returns:
    Its folder; None: the repository holds something else.

  Raises:
    ConfigError: no such repository, no network, the package is not installed.
  """
  address = parse(text)
  client = client or _package()
  try:
    folder = client.snapshot_download(
        address.repository, revision=address.revision,
        allow_patterns=_PACK_FILES)
  # See `_download`.
  except Exception as error:
    raise ConfigError(f"Cannot fetch {text}: {_reason(error)}") from error
  if not pack.is_pack(folder):
    return None
  commit = commit_of(os.path.join(folder, pack.WEIGHTS))
  print(f"{text}: the pack of commit {commit}", file=sys.stderr)
  return folder


def push_pack(folder: str, repository: str, *, private: bool = False,
              client: Client | None = None) -> str:
  """Uploads a pack as one commit, and makes the repository if need be.

  Other files in the folder stay where they are.

  Args:
    folder: of the pack.
    repository: 'OWNER/NAME'.
    private: whether a new repository is for its owner's eyes alone.
    client: None: the package huggingface_hub.

  Returns:
    The name by which commands take it, 'hf:OWNER/NAME'.

  Raises:
    ConfigError: no pack, no such name, not logged in, no network, the package
      is not installed.
  """
  name = f"{PREFIX}{repository}"
  if not re.fullmatch(f"{_PART}/{_PART}", repository):
    raise ConfigError(f"{repository!r}; allowed: OWNER/NAME of letters, "
                      "digits, '.', '_' and '-'.")
  if not pack.is_pack(folder):
    raise ConfigError(f"{folder} is no pack. `uvim convert WORKDIR PACK --pack`"
                      " makes one.")
  client = client or _package()
  try:
    client.create_repo(repository, private=private, exist_ok=True)
    client.upload_folder(
        repo_id=repository, folder_path=folder,
        commit_message="Upload a pack of uvim", allow_patterns=_PACK_FILES)
  # See `_download`.
  except Exception as error:
    raise ConfigError(
        f"Cannot push to {name}: {_reason(error)}. `hf auth login` logs in."
    ) from error
  return name


def commit_of(path: str | os.PathLike) -> str:
  """The commit of a file in the hub's cache; 'unknown' for other files."""
  parts = pathlib.Path(path).parts
  if "snapshots" in parts[:-1]:
    return parts[parts.index("snapshots") + 1]
  return "unknown"


def _package() -> Client:
  try:
    import huggingface_hub
  except ImportError as error:
    raise ConfigError(
        "Names such as hf:OWNER/NAME need the package huggingface_hub: "
        "pip install 'huggingface_hub'.") from error
  return huggingface_hub


def _download(client, address, text) -> pathlib.Path:
  try:
    path = client.hf_hub_download(
        address.repository, address.file, revision=address.revision)
  # Its errors come from several packages: of the hub, of HTTP, of the system.
  except Exception as error:
    if address.file == FILE and _is_sharded(client, address):
      raise ConfigError(
          f"{text}: the weights are split into several files ({INDEX}), which "
          "is not supported. Name one file of them, or a smaller model."
      ) from error
    raise ConfigError(f"Cannot fetch {text}: {_reason(error)}") from error
  return pathlib.Path(path)


def _is_sharded(client, address) -> bool:
  """Whether a list of several files is there instead of one."""
  try:
    client.hf_hub_download(
        address.repository, INDEX, revision=address.revision)
  except Exception:  # noqa: BLE001
    return False
  return True


def _reason(error: Exception) -> str:
  """One line of a message that may have many."""
  lines = [line.strip() for line in str(error).splitlines()]
  text = " ".join(line for line in lines if line) or type(error).__name__
  offline = os.environ.get("HF_HUB_OFFLINE")
  if offline:
    text += f" (HF_HUB_OFFLINE={offline})"
  return text
