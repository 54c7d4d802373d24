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
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from uvim import files, finder, registry
from uvim import tree as tree_lib
from uvim.store import alias, digests, givt_files, pack, safetensors_file
from uvim.typing import PyTree

SUBDIR = "checkpoints"
# Parts of a TrainState that belong to the model; see `uvim.learn.state`.
_EXTRA_PARTS = ("extra/state/", "extra/ema/")
# Any of these may come out of Orbax and TensorStore for a bad disk or path.
IO_ERRORS = (OSError, ValueError, RuntimeError)

SAFETENSORS = ".safetensors"
# Files of PyTorch and others that hold pickles.
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint")

Meta = dict[str, Any]
Path = str | os.PathLike

log = logging.getLogger(__name__)


def _versions() -> dict[str, str]:
  return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _spec(leaf: Any) -> list:
  """Shape and dtype as JSON keeps them."""
  return [list(leaf.shape), str(leaf.dtype)]


def _saved_steps(root: epath.Path) -> list[int]:
  """Steps with a finished checkpoint, newest first."""
  if not root.is_dir():
    return []
  steps = []
  for path in root.iterdir():
    # Other names are folders that are being written, damaged ones set aside,
    # or no concern of ours, such as '007'.
    if re.fullmatch("0|[1-9][0-9]*", path.name):
      steps.append(int(path.name))
  return sorted(steps, reverse=True)


def _newest_sound_step(root: epath.Path) -> tuple[int | None, list[int]]:
  """The newest intact step (None: no checkpoint), and the damaged newer ones.

  Raises:
    ConfigError: there are checkpoints, but none is intact; to start from
      scratch silently would throw a run away.
  """
  damaged = []
  for step in _saved_steps(root):
    step_dir = root / str(step)
    damage = digests.damage(step_dir)
    if not damage:
      return step, damaged
    damaged.append(step)
    log.warning("Skipped damaged checkpoint %s: %s.", step_dir, damage)
  if damaged:
    raise registry.ConfigError(
        f"All {len(damaged)} checkpoint(s) in {root} are damaged; of the "
        f"oldest, {damage}. Restore the folder from a copy, or move it away to "
        "start anew.")
  return None, damaged


def _read_meta(step_dir: epath.Path) -> Meta:
  """All that `Checkpointer.save` wrote: the caller's meta and ours."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(step_dir / "meta")


def _read_error(step_dir: epath.Path, error: Exception) -> registry.ConfigError:
  """For an intact checkpoint that Orbax nevertheless cannot read."""
  reason = " ".join(str(error).split())
  return registry.ConfigError(f"Cannot read checkpoint {step_dir}: {reason}.")


def array_specs(tree: PyTree) -> dict[str, list]:
  """{name: [shape, dtype]} of a tree of arrays."""
  flat = tree_lib.flatten(tree)
  return {name: _spec(leaf) for name, leaf in flat.items()}


def check_same_arrays(saved: Mapping, wanted: Mapping, where: Any) -> None:
  """Raises ConfigError with the differences of two `array_specs`."""
  found = tree_lib.compare(saved, wanted)
  if not found.same:
    raise registry.ConfigError(
        f"Checkpoint {where} is of another model or optimizer: "
        f"{found.report()}")


class Checkpointer:
  """Saves and restores the state of one run. All processes must call alike."""

  def __init__(
      self,
      workdir: Path,
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
    # The step that is being saved.
    self._saving = None
    # `_newest_sound_step`, where it is known and nothing was saved since.
    self._newest = None
    options = self._options(keep_last, keep_every)
    try:
      self._root.mkdir(parents=True, exist_ok=True)
      self._alias = alias.Alias(self._root)
      self._manager = ocp.CheckpointManager(self._alias.path, options=options)
    except IO_ERRORS as e:
      raise registry.ConfigError(
          f"Cannot use workdir {workdir}: {e}.") from e

  def _options(self, keep_last, keep_every) -> ocp.CheckpointManagerOptions:
    """Which checkpoints stay, and how they are written."""
    policies = [checkpoint_managers.LatestN(keep_last)]
    if keep_every:
      policies.append(checkpoint_managers.EveryNSteps(keep_every))
    async_options = ocp.options.AsyncOptions(
        post_finalization_callback=self._write_checksums,
        # A folder that cannot be made is then an error at once, not after
        # twenty minutes of background threads waiting for it.
        create_directories_asynchronously=False)
    return ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        async_options=async_options)

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
        # What comes back is then what was saved: lists, not tuples.
        "meta": json.loads(json.dumps(meta)),
        "step": step,
        "versions": _versions(),
        "arrays": array_specs(state),
    }
    try:
      # Waits for the save before, whose callback still needs its own step.
      self._manager.wait_until_finished()
      self._saving = step
      self._newest = None
      if "://" not in str(self._root) and not self._root.exists():
        # Orbax would make it anew, and nobody would look for it there.
        raise FileNotFoundError(f"{self._root} has vanished")
      items = ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          meta=ocp.args.JsonSave(meta))
      self._manager.save(step, force=True, args=items)
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
    self._alias.remove()

  def restore_latest(
      self,
      abstract_state: PyTree,
  ) -> tuple[PyTree, Meta] | None:
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
    step_dir = self._root / str(step)
    meta = _read_meta(step_dir)
    wanted = array_specs(abstract_state)
    # Before Orbax sees it, whose message names no array.
    check_same_arrays(meta["arrays"], wanted, step_dir)
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state))
    digests.check_metadata(step_dir)
    try:
      restored = self._manager.restore(step, args=items)
    except IO_ERRORS as e:
      raise _read_error(step_dir, e) from e
    self._set_aside(damaged)
    self._newest = (step, [])
    return restored["state"], meta["meta"]

  def _agree_on_step(self) -> tuple[int | None, list[int]]:
    """`_newest_sound_step`, read by process 0 for all, once between saves."""
    self.wait()
    if self._newest is None:
      step = None
      damaged = []
      if jax.process_index() == 0:
        step, damaged = _newest_sound_step(self._root)
      if jax.process_count() > 1:
        step = _broadcast_step(step)
      self._newest = (step, damaged)
    return self._newest

  def _set_aside(self, damaged: list[int]) -> None:
    """Renames damaged checkpoints: they would count as the newest to keep,
    and stand in the way when the run comes to their step again."""
    for step in damaged:
      source = self._root / str(step)
      try:
        source.rename(_free_name(self._root, f"{step}.damaged"))
      except OSError as e:
        log.warning("Could not rename %s: %s.", source, e)
    self._manager.reload()

  def _write_checksums(self) -> None:
    """Called in the saving thread when all files are written, before the
    folder gets its final name."""
    if jax.process_index():
      return
    folder = self._root / str(self._saving)
    # On an object store there is no rename: the files are in place already.
    temporary = f"{self._saving}.orbax-checkpoint-tmp"
    # Not `glob`, which would take [ and * in the workdir's own name for a
    # pattern.
    for found in sorted(self._root.iterdir()):
      if found.name.startswith(temporary):
        folder = found
        break
    digests.write(folder)

  def _write_error(self, e: Exception) -> registry.ConfigError:
    return registry.ConfigError(
        f"Cannot write checkpoint {self._saving} to {self._root}: {e}. Is the "
        "disk full, read-only or gone? Earlier checkpoints are unchanged.")


def _free_name(folder: epath.Path, name: str) -> epath.Path:
  """NAME in a folder, or NAME-2, NAME-3, … if that is taken."""
  path = folder / name
  number = 1
  while path.exists():
    number += 1
    path = folder / f"{name}-{number}"
  return path


def _broadcast_step(step: int | None) -> int | None:
  """The step of process 0, on all processes."""
  # Here, because it must not be touched before jax.distributed is up.
  from jax.experimental import multihost_utils
  # Only arrays travel, and no array holds None.
  sent = np.int32(-1 if step is None else step)
  received = int(multihost_utils.broadcast_one_to_all(sent))
  return None if received < 0 else received


def _absolute(path: Path) -> epath.Path:
  """Orbax takes no relative paths; gs:// and the like stay as they are."""
  path = os.fspath(path)
  if "://" not in path:
    path = os.path.abspath(path)
  return epath.Path(path)


def _load_workdir(workdir: epath.Path) -> dict[str, Any]:
  """The parameters and the model's state of a run, as published files have."""
  root = workdir / SUBDIR
  step, _ = _newest_sound_step(root)
  if step is None:
    hint = "Is it the workdir of a run that has saved one?"
    for path in workdir.iterdir():
      if path.name.endswith(SAFETENSORS):
        hint = f"Did you mean the file {path.name} in it?"
    raise registry.ConfigError(
        f"{workdir} holds no checkpoint: expected {root}/STEP. {hint}")
  step_dir = root / str(step)
  saved = _read_meta(step_dir)["arrays"]
  # Not the optimizer's arrays: they are large, and no prediction needs them.
  wanted = {}
  for name, (shape, dtype) in saved.items():
    if name.startswith(("params/", *_EXTRA_PARTS)):
      wanted[name] = jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
  digests.check_metadata(step_dir)
  try:
    with alias.Alias(step_dir) as folder:
      tree = _restore_numpy(folder / "state", tree_lib.unflatten(wanted))
  except IO_ERRORS as e:
    raise _read_error(step_dir, e) from e
  # Averaged parameters, where there are some, are the ones to predict with.
  extra = tree.get("extra", {})
  arrays = {files.PARAMS: extra.get("ema", tree["params"])}
  if files.STATE in extra:
    arrays[files.STATE] = extra[files.STATE]
  for name, array in tree_lib.flatten(arrays).items():
    # A run that diverged predicts nothing.
    files.check_numbers(array, f"{step_dir}: {name}")
  return arrays


def _restore_numpy(folder: epath.Path, wanted: PyTree) -> PyTree:
  """These arrays of a saved state, as numpy."""
  to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray), wanted)
  args = ocp.args.PyTreeRestore(
      wanted, restore_args=to_numpy, partial_restore=True)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.restore(folder, args=args)


def read_meta(workdir: Path) -> Meta:
  """What was given to `save` as meta with a run's newest checkpoint.

  {} for anything that is no run's workdir, such as a .npz.
  """
  root = _absolute(workdir) / SUBDIR
  for step in _saved_steps(root):
    step_dir = root / str(step)
    # If it is damaged, one before it tells the same. The arrays are not read:
    # they may be large.
    if not digests.damage(step_dir, "meta/"):
      return _read_meta(step_dir)["meta"]
  return {}


def load_params(path: Path) -> dict[str, Any]:
  """Parameters as numpy, on one host.

  Args:
    path: a '.npz' with slash-joined names, a '.safetensors', a pack, or the
      workdir of a run, whose newest intact checkpoint is read; local or gs://.

  Returns:
    Nested dicts as in the published files: {'params': …, and in stage I
    'state': {'dictionary', 'counts'}}.

  Raises:
    ConfigError: nothing there, not readable, or arrays that need pickle.
  """
  given = os.fspath(path)
  refuse_pickle(given)
  path = _absolute(path)
  if not path.exists():
    raise registry.ConfigError(
        f"No checkpoint at {given}. Expected a .npz or .safetensors file or a "
        "run's workdir.")
  if path.is_dir():
    if pack.is_pack(path):
      return pack.load_params(path)
    return _load_workdir(path)
  is_safetensors = given.endswith(SAFETENSORS)
  if "://" not in given:
    what = SAFETENSORS if is_safetensors else ".npz"
    finder.check_file(given, f"{what} file")
  if is_safetensors:
    return safetensors_file.load(path)
  return givt_files.as_ours(files.load_npz(path))


def is_workdir(path: Path) -> bool:
  """Whether a path leads to a run that has saved something."""
  path = os.fspath(path)
  return "\0" not in path and (_absolute(path) / SUBDIR).is_dir()


def refuse_pickle(path: str) -> None:
  """Raises a ConfigError for a file or an address of PyTorch's pickles."""
  # What follows '?' in an address is no part of the file's name.
  name = path.partition("?")[0]
  if name.lower().endswith(_PICKLES):
    raise registry.ConfigError(
        f"{path}: a pickle can run any program, so none is read. Take the "
        ".safetensors file of the same model; huggingface.co has one for most.")
