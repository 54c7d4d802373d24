"""A workdir belongs to one run, and a run to its config, data and arrays.

Three ways in which the results of a run would be wrong, and nobody would know:
two runs write to one workdir (`RunLock`); a run is resumed with other settings
(`check_config`); it is resumed on other data, or with another oracle
(`check_inputs`).
"""

import contextlib
import copy
import json
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from trainers import cluster
from uvim import files, finder, lock, models
from uvim.config import RESUME_FREE, TrainConfig
from uvim.fields import fields_of
from uvim.registry import ConfigError
from uvim.store import open_model, published

CONFIG = "config.json"
LOCK = "run.lock"
# Paths of checkpoints may be written otherwise when a run is resumed. The
# arrays that they lead to are compared instead.
CHECKPOINT_PATHS = ("model_init", "oracle.model_init")
# How many differences a message shows.
_MAX_SHOWN = 10

# What a checkpoint says of its run; see `trainers.inputs.checkpoint_meta`.
Meta = dict[str, Any]

log = logging.getLogger(__name__)


def local_folder(workdir: str | os.PathLike) -> pathlib.Path:
  """The folder that a user names as workdir, with `~` as the home folder.

  Raises:
    ConfigError: an address: metrics and images need a disk.
  """
  path = os.fspath(workdir)
  if "://" in path:
    raise ConfigError(
        f"--workdir {path}; it must be a folder on a local or mounted disk.")
  return pathlib.Path(finder.expand(path))


# ── One run at a time ───────────────────────────────────────────────────────


class RunLock:
  """Keeps a workdir for one run; use it in a `with` block.

  Process 0 holds the lock for all processes of the run. If it does not get it,
  or loses it, all of them learn so.
  """

  def __init__(self, workdir: pathlib.Path):
    """Touches no file yet."""
    self._workdir = workdir
    self._lock = lock.Lock(workdir / LOCK, f"--workdir {workdir}")
    self._is_first = jax.process_index() == 0
    self._was_there = workdir.exists()

  def __enter__(self) -> "RunLock":
    """Takes the workdir, making it if need be.

    Raises:
      Locked: another run has it.
      ConfigError: it cannot be made or written.
    """
    cluster.together(self._acquire)
    return self

  def __exit__(self, *exc: Any) -> None:
    if not self._is_first:
      return
    self._lock.release()
    if not self._was_there:
      # Empty is the folder of a run that was refused before it began.
      with contextlib.suppress(OSError):
        self._workdir.rmdir()

  def check(self) -> None:
    """Raises Locked, in all processes, if another run has taken over."""
    cluster.together(self._check)

  def _acquire(self) -> None:
    if not self._is_first:
      return
    try:
      self._lock.acquire()
    except OSError as error:
      reason = error.strerror or error
      raise ConfigError(f"--workdir {self._workdir} cannot be written: "
                        f"{reason}.") from error

  def _check(self) -> None:
    if self._is_first:
      self._lock.check()


# ── What the run in a workdir says of itself ────────────────────────────────


def read_past(workdir: pathlib.Path) -> Meta:
  """The meta of a run's newest checkpoint; {} in a new workdir.

  Where nothing is saved yet, only the config is known: {"config": …}.

  Raises:
    ConfigError: a run of version 0.1.0.
  """
  config = open_model.read_config(workdir)
  meta = open_model.read_meta(workdir)
  # The checkpoint tells best: nobody has edited it.
  if not isinstance(meta.get("config"), dict):
    meta = {**meta, "config": config}
  return meta if meta["config"] else {}


def claim_workdir(workdir: pathlib.Path, config: TrainConfig) -> None:
  """Makes the workdir and writes config.json, all checks being passed."""
  if jax.process_index():
    return
  path = workdir / CONFIG
  # What is left of a damaged one is kept beside it.
  old = files.read_json(path, sets_aside=True)
  if old is None and open_model.read_meta(workdir):
    log.warning("%s is missing or damaged; it is written anew. The newest "
                "checkpoint knows the config.", path)
  try:
    files.write_json(path, config.to_json())
  except OSError as error:
    raise ConfigError(
        f"--workdir {workdir} cannot be written: {error}.") from error


# ── The config ──────────────────────────────────────────────────────────────


def check_workdir(workdir: pathlib.Path, config: TrainConfig) -> Meta:
  """Refuses a workdir that holds a run of another config.

  Returns:
    `read_past`.

  Raises:
    ConfigError: names the fields that differ.
  """
  past = read_past(workdir)
  if not past:
    return past
  diff = config_diff(past["config"], config.to_json())
  if diff:
    may_differ = ", ".join(sorted({*RESUME_FREE, *CHECKPOINT_PATHS}))
    raise ConfigError(
        f"--workdir {workdir} holds a run of another config. Choose another "
        f"workdir or the old settings (may differ: {may_differ}). Old → new:"
        f"{_shown(diff)}")
  return past


def config_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines 'path: old → new' for every field that changes what is computed.

  Args:
    old: of the run, as JSON.
    new: of the one that would resume it.
  """
  return _diff(_identity(old), _identity(new), "config")


def _identity(values: Mapping[str, Any]) -> dict[str, Any]:
  """What tells a run from others: its config without what may change."""
  identity = {}
  for name, known in fields_of(TrainConfig).items():
    # A field that is newer than the run.
    if name not in values and not known.is_required:
      identity[name] = json.loads(json.dumps(known.default, default=list))
  identity |= copy.deepcopy(dict(values))
  for name in RESUME_FREE:
    identity.pop(name, None)
  # See CHECKPOINT_PATHS.
  identity.pop("model_init", None)
  _complete_model(identity, "config")
  if isinstance(identity.get("oracle"), dict):
    identity["oracle"].pop("model_init", None)
    _complete_model(identity["oracle"], "config.oracle")
  identity["dataset"] = _named_data(identity.get("dataset"))
  return identity


def _complete_model(block: dict[str, Any], where: str) -> None:
  """Adds fields of the model that are newer than the run; renames old ones.

  Args:
    block: with a `model` and its `model_name`; is changed.
    where: its path, for messages.
  """
  given = block.get("model")
  if not isinstance(given, Mapping):
    return
  completed = models.complete(
      block.get("model_name"), given, f"{where}.model")
  # As JSON has it, which knows no tuples.
  block["model"] = json.loads(json.dumps(completed, default=list))


def _named_data(dataset: Any) -> Any:
  """The name of a data set without the folder of 'arrays:FOLDER', which may
  have moved."""
  kind, colon, _ = str(dataset).partition(":")
  return kind + colon if kind == "arrays" else dataset


def _diff(old: Any, new: Any, path: str) -> list[str]:
  """Lines for every leaf that differs below `path`."""
  if not isinstance(old, Mapping) or not isinstance(new, Mapping):
    return [f"{path}: {old!r} → {new!r}"] if old != new else []
  lines = []
  for name in sorted({*old, *new}):
    lines += _diff(old.get(name), new.get(name), f"{path}.{name}")
  return lines


def _shown(lines: Sequence[str]) -> str:
  """Differences as they end a message, each on a line of its own."""
  text = "".join(f"\n  {line}" for line in lines[:_MAX_SHOWN])
  num_hidden = len(lines) - _MAX_SHOWN
  if num_hidden > 0:
    text += f"\n  … and {num_hidden} more"
  return text


# ── Data and arrays ─────────────────────────────────────────────────────────


def needs_no_start(config: TrainConfig, past: Meta) -> bool:
  """Whether `config.model_init` need not be read to resume a run.

  Its arrays are in the checkpoint by now. The file itself may be gone, or
  have moved; only one that is there is compared.
  """
  begun = past.get("config", {}).get("model_init")
  if "initial_crc32" not in past:
    return False
  if begun == config.to_json()["model_init"]:
    return True
  missing = _missing_file(config.model_init)
  if not begun or not missing:
    return False
  if jax.process_index() == 0:
    log.warning(
        "config.model_init: %r is not there. The run began with %r and needs "
        "neither any more: it goes on from its own checkpoint.", missing, begun)
  return True


def _missing_file(model_init: Any) -> str:
  """The first path that leads nowhere; "" if none of them does."""
  paths = [model_init]
  if isinstance(model_init, Mapping):
    paths = list(model_init.values())
  for path in paths:
    path = finder.expand(str(path or ""))
    # Published weights are fetched under their name.
    is_elsewhere = (
        published.is_remote(path) or published.is_like_a_name(path))
    if path and not is_elsewhere and not os.path.exists(path):
      return path
  return ""


def check_inputs(workdir: pathlib.Path, config: TrainConfig, past: Meta,
                 meta: Meta) -> None:
  """Refuses to resume a run on other data or arrays than it began with.

  Args:
    workdir: of the run.
    config: with which it is resumed.
    past: what its checkpoint says; {} for a new run. What it does not say is
      not compared.
    meta: what its next checkpoint would say.

  Raises:
    ConfigError: names what differs.
  """
  if not past:
    return
  old_oracle = past["config"].get("oracle") or {}
  new_oracle = meta["config"]["oracle"] or {}
  open_model.check_oracle(
      past, meta["oracle_crc32"], workdir,
      change=f"{old_oracle.get('model_init')} → {new_oracle.get('model_init')}")
  begun = past.get("initial_crc32")
  if begun not in (None, meta["initial_crc32"]):
    raise ConfigError(
        f"config.model_init = {config.model_init!r} names other arrays than "
        f"the run in --workdir {workdir} began with (checksum {begun:08x} → "
        f"{meta['initial_crc32']:08x}). Choose the old ones or another "
        "workdir.")
  diff = data_diff(past, meta)
  if not diff:
    return
  problem = f"--workdir {workdir} holds a run that began on other data."
  differences = f"Old → new:{_shown(diff)}"
  if config.on_other_data == "error":
    raise ConfigError(
        f"{problem} Go back to the old data, choose another workdir, or allow "
        f"it with config.on_other_data = 'warn'. {differences}")
  log.warning("%s %s", problem, differences)


def data_diff(past: Meta, meta: Meta) -> list[str]:
  """Lines 'field: old → new' of data that is not what it was.

  Args:
    past: of the run.
    meta: of the one that would resume it.
  """
  lines = []
  old_data = past.get("data") or {}
  for field, new in meta["data"].items():
    old = old_data.get(field)
    # A config may name other data for an evaluator: that is no mishap.
    is_asked_for = _scored_data(past, field) != _scored_data(meta, field)
    if old is not None and not is_asked_for:
      lines += _diff_of_known(old, new, f"config.{field}")
  old_categories = past.get("categories")
  if old_categories is not None:
    lines += _diff(_numbered(old_categories), _numbered(meta["categories"]),
                   "class")
  return lines


def _diff_of_known(old: Mapping[str, Any], new: Mapping[str, Any],
                   path: str) -> list[str]:
  """`_diff` of what both say: a newer version may say more."""
  lines = []
  for name in new:
    if name in old:
      lines += _diff(old[name], new[name], f"{path}.{name}")
  return lines


def _scored_data(meta: Meta, name: str) -> tuple[Any, ...]:
  """What the config of a run says about the data of an evaluator."""
  for block in meta["config"].get("evals") or ():
    if block["name"] == name:
      return _named_data(block["dataset"]), block["split"], block["pp"]
  return ()


def _numbered(categories: Sequence[Any]) -> dict[str, Any]:
  """Categories by the number of their class, 1, 2, …."""
  return {f"{number:d}": category
          for number, category in enumerate(categories, start=1)}
