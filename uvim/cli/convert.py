"""Turns a run into a pack or a .npz, and a .npz into the workdir of a run.

  uvim convert SRC DST --pack [--half] [--license cc-by-4.0]
  uvim convert SRC DST

With --pack, SRC is the workdir of a run: of stage II, whose stage I comes
along, of stage I, or of Pix2Seq-D. DST becomes a folder with weights, config,
names of the classes and a model card. Every command takes it as --checkpoint,
on any machine.

Without it, the published layout is written. SRC is the workdir of a run, a
pack, a .npz, an https:// address, or a name such as uvim-panoptic-stage1. DST
is a new .npz if it ends so, else a new workdir that `config.model_init` and
`config.oracle.model_init` take. Not a bit of an array changes. That of a masked
prior gets one more array, `state/style_masked`, since no other tells the style.

Optimizer, step and random state are left behind: neither a pack nor a converted
workdir can be resumed, only started from. Where a run averages its parameters,
the average is what is written.
"""

import argparse
import itertools
import math
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import uvim
from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

# The arrays of each kind must have one of these, where only their names tell
# the kind. A prior reads words or vectors.
_SIGNS = {"vqvae": ("params/decoder_stem/kernel",),
          "lm": ("params/decoder/EmbedTargets/embedding",
                 "params/EmbedTargets/kernel"),
          "pix2seq_d": ("params/denoiser/conv_in/kernel",)}
_TITLES = {"vqvae": "stage I", "lm": "stage II", "pix2seq_d": "Pix2Seq-D"}


def main(argv: Sequence[str] | None = None, *,
         program: str = "uvim convert") -> int:
  """The command; returns the exit code."""
  return app.run(make_parser(program), _command, argv)


def make_parser(program: str = "uvim convert") -> argparse.ArgumentParser:
  """The options of the command."""
  parser = app.make_command_parser(program, __doc__)
  parser.add_argument("source", metavar="SRC")
  parser.add_argument("target", metavar="DST")
  parser.add_argument("--pack", action="store_true",
                      help="write a pack: a folder to share")
  parser.add_argument("--half", action="store_true",
                      help="pack: parameters of 16 bits, half the size")
  parser.add_argument("--license", metavar="ID",
                      help="pack: for its card, such as cc-by-4.0; default: "
                      "the card names none")
  return parser


def _command(args: argparse.Namespace) -> None:
  # Imported late: a typo on the command line need not wait for JAX.
  import jax

  # An accelerator may be busy with a run, and is of no use here.
  jax.config.update("jax_platforms", "cpu")
  if args.pack:
    facts = make_pack(args.source, args.target, half=args.half,
                      license_id=args.license)
    print(describe_pack(facts))
    print(f"wrote {args.target}, {facts.num_bytes / 1e6:.1f} MB")
    return
  for name in ("half", "license"):
    if getattr(args, name):
      raise ConfigError(f"--{name} is an option of packs: add --pack.")
  kind, specs = convert(args.source, args.target)
  print(describe(kind, specs))
  print(f"wrote {args.target}")


def make_pack(source: str, target: str, *, half: bool,
              license_id: str | None = None) -> Any:
  """Writes a pack; see `uvim.store.pack_writer.write`.

  Returns:
    `uvim.store.card.Facts`: what the card says.
  """
  from uvim.store import pack_writer
  return pack_writer.write(source, target, packed_with=_own_version(),
                           half=half, license_id=license_id)


def describe_pack(facts: Any) -> str:
  """A few lines about a pack, from what its card says."""
  lines = []
  for title, count in facts.parameters.items():
    lines.append(f"{title}: {count:,} parameters, {facts.precision}")
  if facts.rounding:
    lines.append(f"half precision: {facts.rounding}")
  if facts.license is None:
    lines.append("the card names no license; --license does")
  return "\n".join(lines)


def _own_version() -> str:
  """The version of this package and, of a checkout, its commit."""
  version = f"uvim {uvim.__version__}"
  root = pathlib.Path(uvim.__file__).resolve().parents[1]
  # Or else git would tell the commit of whatever lies around an installation.
  if not (root / ".git").exists():
    return version
  try:
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True,
        text=True, check=True)
  except (OSError, subprocess.CalledProcessError):
    return version
  return f"{version}, commit {done.stdout.strip()}"


def convert(source: str, target: str) -> tuple[str, dict[str, list]]:
  """Writes the parameters at `source` to `target`.

  Args:
    source: whatever `uvim.store.published.locate` takes.
    target: '….npz' or a folder to be made; must not exist.

  Returns:
    The kind of the model, and {name: [shape, dtype]} of what was written, in
    the published names.

  Raises:
    ConfigError: nothing to read, no UViM checkpoint, something at `target`.
  """
  from uvim.store import checkpoint, published
  _check_is_new(target)
  # First, because it refuses a run of version 0.1.0: `load_params` would lose
  # the codebook of such a run silently.
  kind = _kind_of_run(source)
  arrays = published.load_params(source)
  _mark_style(arrays, source)
  specs = checkpoint.array_specs(arrays)
  if kind is None:
    kind = kind_of_arrays(specs)
  if target.endswith(".npz"):
    files.save_npz(target, arrays)
  else:
    _save_new_workdir(target, arrays, source)
  return kind, specs


def _mark_style(arrays: dict[str, Any], source: str) -> None:
  """Adds an array that says how a run's prior predicts, where none does."""
  import numpy as np

  from uvim import tree
  from uvim.store import open_model, shapes
  config = open_model.read_config(source)
  if config.get("kind") != "lm":
    return
  style = (config.get("model") or {}).get("style", shapes.STYLE_OF_UNMARKED)
  told = shapes.style_of(tree.flatten(arrays)) or shapes.STYLE_OF_UNMARKED
  if style != told:
    _, _, mark = f"{shapes.STYLE_MARK}{style}".partition("/")
    arrays.setdefault(files.STATE, {})[mark] = np.ones((), np.int8)


def _check_is_new(target: str) -> None:
  """Raises a ConfigError unless `target` can be written, and is not there."""
  # Unlike pathlib, epath also sees folders in the cloud.
  from etils import epath
  scheme, separator, _ = target.partition("://")
  if separator and scheme != "gs":
    raise ConfigError(f"DST = {target!r}; allowed: a path on this machine, or "
                      "gs://….")
  try:
    # A link that leads nowhere is somebody's too.
    exists = os.path.lexists(target) or epath.Path(target).exists()
  except Exception as error:  # Every client of a remote storage has its own.
    reason = " ".join(str(error).split())
    raise ConfigError(f"DST = {target!r} cannot be reached: {reason}.") from (
        error)
  if exists:
    raise ConfigError(f"{target} exists already; nothing is overwritten.")


def _kind_of_run(source: str) -> str | None:
  """The kind that a run's config names; None for anything but a run."""
  from uvim.store import open_model
  return open_model.read_config(source).get("kind")


def kind_of_arrays(specs: Mapping[str, Any]) -> str:
  """The kind of bare arrays.

  Raises:
    ConfigError: these are no UViM's names.
  """
  from uvim.store import shapes
  kind = shapes.kind_of(specs)
  # `kind_of` calls everything stage II that is not stage I. So check.
  if not any(sign in specs for sign in _SIGNS[kind]):
    wanted = " nor ".join(itertools.chain(*_SIGNS.values()))
    found = ", ".join(sorted(specs)[:3]) or "nothing"
    raise ConfigError(
        f"No UViM checkpoint: it has neither {wanted}, but {found}.")
  return kind


def _save_new_workdir(workdir: str, arrays: Mapping[str, Any],
                      source: str) -> None:
  """`_save_workdir` under another name; renamed when it is complete."""
  if "://" in workdir:
    _save_workdir(workdir, arrays, source)
    return
  folder = pathlib.Path(workdir)
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(
      dir=folder.parent, prefix=".converting_") as temporary:
    unfinished = pathlib.Path(temporary) / folder.name
    _save_workdir(str(unfinished), arrays, source)
    unfinished.rename(folder)


def _save_workdir(workdir: str, arrays: Mapping[str, Any],
                  source: str) -> None:
  """Saves arrays as a run does; see `uvim.learn.state.TrainState`."""
  from uvim.store import checkpoint
  # The published layout has two groups. A run keeps the second one in `extra`.
  state = {"params": arrays[files.PARAMS]}
  if files.STATE in arrays:
    state["extra"] = {"state": arrays[files.STATE]}
  with checkpoint.Checkpointer(workdir) as checkpointer:
    # Step 0: neither step nor optimizer is part of the published layout.
    checkpointer.save(0, state, {"converted_from": str(source)})


def describe(kind: str, specs: Mapping[str, list]) -> str:
  """A line per array as name, shape, dtype; then the totals."""
  from uvim.store import shapes
  lines = []
  num_parameters = 0
  num_state = 0
  for name, (shape, dtype) in specs.items():
    lines.append(f"{name}\t{tuple(shape)}\t{dtype}")
    if name.startswith(shapes.STYLE_MARK):
      # Its name says all.
      continue
    # The codebook's counts and sums are no parameters: no gradient changes
    # them.
    size = math.prod(shape)
    if name.startswith(f"{files.STATE}/"):
      num_state += size
    else:
      num_parameters += size
  title = _TITLES.get(kind, kind)
  total = f"{title}: {len(specs)} arrays, {num_parameters:,} parameters"
  if num_state:
    total += f", {num_state:,} numbers of its state"
  lines.append(total)
  return "\n".join(lines)
