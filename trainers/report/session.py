"""When, where and with what a run is started."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from uvim.learn import devices

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
             "tensorflow-cpu", "tensorflow-datasets")


def describe(start_step: int, total_steps: int) -> dict[str, Any]:
  """This session as an entry of sessions.json.

  Args:
    start_step: steps that were done before it.
    total_steps: of the run.
  """
  now = datetime.datetime.now(datetime.UTC)
  program = os.path.basename(sys.argv[0])
  all_devices = devices.of_runs()
  return {
      "started": now.isoformat(" ", "seconds"),
      "step": start_step,
      "total_steps": total_steps,
      "command": " ".join([program, *sys.argv[1:]]),
      "devices": f"{len(all_devices)} × {all_devices[0].device_kind}",
      "processes": jax.process_count(),
      "commit": _commit(),
      "python": platform.python_version(),
      "platform": platform.platform(),
      "versions": _versions(),
  }


def _commit() -> str | None:
  """The commit of the running code; None: it is in no repository of its own.

  It ends with "-dirty" if files differ from it.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  # Of a repository further up the code may be a part that is not tracked.
  if not (root / ".git").exists():
    return None
  describe = ["git", "--no-optional-locks", "-C", str(root), "describe",
              "--always", "--dirty", "--abbrev=40", "--exclude=*"]
  try:
    described = subprocess.run(
        describe, capture_output=True, text=True, check=True, timeout=10)
  except (OSError, subprocess.SubprocessError):
    # No git on this machine, or it does not trust the owner of the folder.
    return None
  return described.stdout.strip()


def _versions() -> dict[str, str]:
  """Package → version, of those that are installed."""
  versions = {}
  # Names of distributions: several differ from what is imported.
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions
