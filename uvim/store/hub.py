"""Files of the Hugging Face hub, by 'hf:OWNER/NAME[@REVISION][/FILE]'.

The hub's own client finds, fetches and keeps them; it is an optional package.
Its settings hold: HF_HUB_OFFLINE, HF_HOME, HF_TOKEN.
"""

import dataclasses
import os
import pathlib
import re
import sys
from typing import Protocol

from uvim.registry import ConfigError

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
