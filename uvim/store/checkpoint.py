"""Checkpoints of a run (Orbax), and parameters from files.

A run's checkpoints are `WORKDIR/checkpoints/STEP/`. Each is written to a
temporary folder in the background and renamed when complete, so a killed
process leaves the earlier ones as they were. Beside the arrays lie `meta`
(JSON: the caller's, versions, and every array's shape and dtype) and
`checksums.json`, written before the rename: Orbax itself does not notice a
flipped byte. Nothing here reads or writes pickles.
"""

import importlib.metadata
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from uvim import files, registry
from uvim import tree as tree_lib
from uvim.typing import PyTree

SUBDIR = "checkpoints"
# Parts of a TrainState that belong to the model; see `uvim.learn.state`.
_EXTRA_PARTS = ("extra/state/", "extra/ema/")
CHECKSUMS = "checksums.json"
# Any of these may come out of Orbax and TensorStore for a bad disk or path.
IO_ERRORS = (OSError, ValueError, RuntimeError)

log = logging.getLogger(__name__)


def _versions() -> dict[str, str]:
  packages = "jax", "flax", "optax", "orbax-checkpoint"
  return {name: importlib.metadata.version(name) for name in packages}


def _spec(leaf: Any) -> list:
  return [list(leaf.shape), str(leaf.dtype)]


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  # epath has no recursive glob, for the sake of object stores.
  for path in folder.iterdir():
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _digests(step_dir: epath.Path) -> dict[str, list[int]]:
  """{file below step_dir: [size in bytes, CRC-32]} of what we saved."""
  digests = {}
  for item in "state", "meta":
    for path in _files(step_dir / item):
      size = crc = 0
      with path.open("rb") as f:
        while chunk := f.read(1 << 24):
          size, crc = size + len(chunk), zlib.crc32(chunk, crc)
      digests[path.relative_to(step_dir).as_posix()] = [size, crc]
  return digests


def _damage(step_dir: epath.Path) -> str:
  """What is wrong with a checkpoint's files; '' if nothing."""
  try:
    expected = json.loads((step_dir / CHECKSUMS).read_text())
    found = _digests(step_dir)
  except (OSError, ValueError) as e:
    return f"{type(e).__name__}: {e}"
  bad = [name for name in sorted({*expected, *found})
         if expected.get(name) != found.get(name)]
  return f"{bad[0]} is missing or altered" if bad else ""


def _saved_steps(root: epath.Path) -> list[int]:
  """Steps with a finished checkpoint, newest first."""
  if not root.is_dir():
    return []
  steps = [int(path.name) for path in root.iterdir() if path.name.isdecimal()]
  return sorted(steps, reverse=True)


def _newest_sound_step(root: epath.Path) -> tuple[int | None, list[int]]:
  """The newest intact step (None: no checkpoint), and the damaged newer ones.

  Raises:
    ConfigError: there are checkpoints, but none is intact; to start from
      scratch silently would throw a run away.
  """
  damaged = []
  for step in _saved_steps(root):
    damage = _damage(root / str(step))
    if not damage:
      return step, damaged
    damaged.append(step)
    log.warning("Skipped damaged checkpoint %s: %s.", root / str(step), damage)
  if damaged:
    raise registry.ConfigError(
        f"All {len(damaged)} checkpoint(s) in {root} are damaged. Restore the "
        "folder from a copy, or move it away to start anew.")
  return None, damaged


def _read_meta(step_dir: epath.Path) -> dict[str, Any]:
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(step_dir / "meta")


def array_specs(tree: PyTree) -> dict[str, list]:
  """{name: [shape, dtype]} of a tree of arrays."""
  return {k: _spec(v) for k, v in tree_lib.flatten(tree).items()}


def check_same_arrays(saved: Mapping, wanted: Mapping, where: Any) -> None:
  """Raises ConfigError with the differences of two `array_specs`."""
  found = tree_lib.compare(saved, wanted)
  if not found.same:
    raise registry.ConfigError(f"Checkpoint {where} is of another model or "
                               f"optimizer: {found.report()}")


class Checkpointer:
  """Saves and restores the state of one run. All processes must call alike."""

  def __init__(
      self,
      workdir: str | os.PathLike,
      *,
      keep_last: int = 2,
      keep_every: int | None = None,
  ):
    """Opens `workdir`, making it if need be.

    Args:
      workdir: the run's folder, local or gs://.
      keep_last: how many of the newest to keep; with 2, one is left if the
        newest turns out to be damaged.
      keep_every: checkpoints at multiples of this step are kept for ever.

    Raises:
      ConfigError: the folder cannot be made.
    """
    self._root = _absolute(workdir) / SUBDIR
    self._saving = None
    self._newest = None
    policies = [checkpoint_managers.LatestN(keep_last)]
    if keep_every:
      policies.append(checkpoint_managers.EveryNSteps(keep_every))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        async_options=ocp.options.AsyncOptions(
            post_finalization_callback=self._write_checksums,
            # A folder that cannot be made is then an error at once, not after
            # twenty minutes of background threads waiting for it.
            create_directories_asynchronously=False))
    try:
      self._root.mkdir(parents=True, exist_ok=True)
      self._manager = ocp.CheckpointManager(self._root, options=options)
    except IO_ERRORS as e:
      raise registry.ConfigError(
          f"Cannot use workdir {workdir}: {e}.") from e

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *exc: Any) -> None:
    self.close()

  def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
    """Starts to save; returns once the state may be donated or changed.

    Args:
      step: the step, `int(state.step)`. A step that is saved already is left.
      state: the TrainState.
      meta: anything JSON can hold.

    Raises:
      ConfigError: this save could not start or the one before failed.
    """
    if step in self._manager.all_steps():
      return
    meta = {
        "meta": json.loads(json.dumps(meta)),
        "step": step,
        "versions": _versions(),
        "arrays": array_specs(state),
    }
    try:
      # Waits for the save before, whose callback still needs its own step.
      self._manager.wait_until_finished()
      self._saving, self._newest = step, None
      if "://" not in str(self._root) and not self._root.exists():
        # Orbax would make it anew, and nobody would look for it there.
        raise FileNotFoundError(f"{self._root} has vanished")
      self._manager.save(step, force=True, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))
    except IO_ERRORS as e:
      raise self._write_error(e) from e

  def wait(self) -> None:
    """Waits until the last save is on disk; ConfigError if it failed."""
    try:
      self._manager.wait_until_finished()
      self._manager.check_for_errors()
    except IO_ERRORS as e:
      raise self._write_error(e) from e

  def close(self) -> None:
    """Waits for the last save and frees the threads."""
    self.wait()
    self._manager.close()

  def restore_latest(
      self, abstract_state: PyTree
  ) -> tuple[PyTree, dict[str, Any]] | None:
    """The newest intact checkpoint.

    Args:
      abstract_state: ShapeDtypeStructs with shardings
        (`sharding.with_shardings`); the mesh may differ from the saved one.

    Returns:
      (state, meta as given to `save`), or None if there is no checkpoint.

    Raises:
      ConfigError: the checkpoint is of another model or optimizer, or every
        checkpoint is damaged.
    """
    step, damaged = self._agree_on_step()
    if step is None:
      return None
    meta = self._meta(step)
    wanted = array_specs(abstract_state)
    check_same_arrays(meta["arrays"], wanted, self._root / str(step))
    restored = self._manager.restore(step, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state)))
    self._set_aside(damaged)
    self._newest = step, []
    return restored["state"], meta["meta"]

  def _meta(self, step: int) -> dict[str, Any]:
    return _read_meta(self._root / str(step))

  def _agree_on_step(self) -> tuple[int | None, list[int]]:
    """`_newest_sound_step`, read by process 0 for all, once between saves."""
    self.wait()
    if self._newest is None:
      step, damaged = None, []
      if jax.process_index() == 0:
        step, damaged = _newest_sound_step(self._root)
      if jax.process_count() > 1:
        # Here, because it must not be touched before jax.distributed is up.
        from jax.experimental import multihost_utils
        step = int(multihost_utils.broadcast_one_to_all(
            np.int32(-1 if step is None else step)))
        step = None if step < 0 else step
      self._newest = step, damaged
    return self._newest

  def _set_aside(self, damaged: list[int]) -> None:
    """Renames damaged checkpoints: they would count as the newest to keep,
    and stand in the way when the run comes to their step again."""
    for step in damaged:
      source = self._root / str(step)
      target = self._root / f"{step}.damaged"
      try:
        if target.exists():
          target.rmtree()
        source.rename(target)
      except OSError as e:
        log.warning("Could not rename %s: %s.", source, e)
    self._manager.reload()

  def _write_checksums(self) -> None:
    """Called in the saving thread when all files are written, before the
    folder gets its final name."""
    if jax.process_index() == 0:
      folder = next(iter(sorted(
          self._root.glob(f"{self._saving}.orbax-checkpoint-tmp*"))),
          self._root / str(self._saving))
      (folder / CHECKSUMS).write_text(json.dumps(_digests(folder)))

  def _write_error(self, e: Exception) -> registry.ConfigError:
    return registry.ConfigError(
        f"Cannot write checkpoint {self._saving} to {self._root}: {e}. Is the "
        "disk full, read-only or gone? Earlier checkpoints are unchanged.")


def _absolute(path: str | os.PathLike) -> epath.Path:
  """Orbax takes no relative paths; gs:// and the like stay as they are."""
  path = os.fspath(path)
  return epath.Path(path if "://" in path else os.path.abspath(path))


def _load_workdir(workdir: epath.Path) -> dict[str, Any]:
  root = workdir / SUBDIR
  step, _ = _newest_sound_step(root)
  if step is None:
    raise registry.ConfigError(
        f"{workdir} holds no checkpoint: expected {root}/STEP. Is it the "
        "workdir of a run that has saved one?")
  saved = _read_meta(root / str(step))["arrays"]
  wanted = {}
  for name, (shape, dtype) in saved.items():
    if name.startswith(("params/", *_EXTRA_PARTS)):
      wanted[name] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
  target = tree_lib.unflatten(wanted)
  to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), target)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    tree = reader.restore(
        root / str(step) / "state",
        args=ocp.args.PyTreeRestore(
            target, restore_args=to_numpy, partial_restore=True))
  # Averaged parameters, where there are some, are the ones to predict with.
  extra = tree.get("extra", {})
  out = {files.PARAMS: extra.get("ema", tree["params"])}
  if files.STATE in extra:
    out[files.STATE] = extra[files.STATE]
  return out


def read_meta(workdir: str | os.PathLike) -> dict[str, Any]:
  """What was given to `save` as meta with a run's newest checkpoint.

  {} for anything that is no run's workdir, such as a .npz.
  """
  root = _absolute(workdir) / SUBDIR
  for step in _saved_steps(root):
    try:
      return _read_meta(root / str(step))["meta"]
    except IO_ERRORS:  # Damaged: one before it tells the same.
      continue
  return {}


def load_params(path: str | os.PathLike) -> dict[str, Any]:
  """Parameters as numpy, on one host.

  Args:
    path: a '.npz' with slash-joined names, or the workdir of a run, whose
      newest intact checkpoint is read; local or gs://.

  Returns:
    Nested dicts as in the published files: {'params': …, and in stage I
    'state': {'dictionary', 'counts'}}.

  Raises:
    ConfigError: nothing there, not readable, or arrays that need pickle.
  """
  given, path = os.fspath(path), _absolute(path)
  if not path.exists():
    raise registry.ConfigError(
        f"No checkpoint at {given}. Expected a .npz file or a run's workdir.")
  return _load_workdir(path) if path.is_dir() else files.load_npz(path)
