"""Turns a run into a .npz in the published layout, and the other way round.

  python -m tools.convert_checkpoint SRC DST

SRC is the workdir of a run, a .npz, an https:// address, or a name such as
uvim-panoptic-stage1. DST is a new .npz if it ends so, else a new workdir that
`config.model_init` and `config.oracle.model_init` take. Not a bit of an array
changes. Optimizer, step and random state are not part of the published layout:
a converted workdir can be started from, not resumed.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from uvim import files
from uvim.registry import ConfigError
from uvim.store import checkpoint
from uvim.store import published as released

# What only a checkpoint of this stage has.
SIGNS = {"stage I": "state/dictionary",
         "stage II": "params/decoder/EmbedTargets/embedding"}


def convert(source: str, target: str) -> dict[str, list]:
  """Writes the parameters at `source` to `target`.

  Args:
    source: whatever `uvim.store.published.locate` takes.
    target: '….npz' or a folder to be made; must not exist.

  Returns:
    {name: [shape, dtype]} of what was written, in the published names.

  Raises:
    ConfigError: nothing to read, no UViM checkpoint, something at `target`.
  """
  if epath.Path(target).exists():
    raise ConfigError(f"{target} exists already; nothing is overwritten.")
  params = released.load_params(source)
  specs = checkpoint.array_specs(params)
  stage_of(specs)
  if target.endswith(".npz"):
    files.save_npz(target, params)
  else:
    _save_workdir(target, params, source)
  return specs


def stage_of(specs: Mapping[str, Any]) -> str:
  """'stage I' or 'stage II'; ConfigError if these are no UViM's names."""
  for stage, sign in SIGNS.items():
    if sign in specs:
      return stage
  raise ConfigError(
      f"No UViM checkpoint: it has neither {' nor '.join(SIGNS.values())}, "
      f"but {', '.join(sorted(specs)[:3]) or 'nothing'}.")


def _save_workdir(workdir, params, source):
  state = {("codebook" if name == files.STATE else name): arrays
           for name, arrays in params.items()}
  with checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(0, state, {"converted_from": str(source)})


def describe(specs: Mapping[str, list]) -> str:
  """A line per array as name, shape, dtype; then the totals."""
  lines = [f"{name}\t{tuple(shape)}\t{dtype}"
           for name, (shape, dtype) in specs.items()]
  sizes = {"parameters": 0, "numbers of the dictionary's state": 0}
  for name, (shape, _) in specs.items():
    kind = list(sizes)[name.startswith(f"{files.STATE}/")]
    sizes[kind] += math.prod(shape)
  totals = ", ".join(f"{n:,} {kind}" for kind, n in sizes.items() if n)
  return "\n".join(
      [*lines, f"{stage_of(specs)}: {len(specs)} arrays, {totals}"])


def main(argv: Sequence[str] | None = None) -> int:
  """The command; 0, or 2 after a mistake that the message explains."""
  parser = argparse.ArgumentParser(
      prog="python -m tools.convert_checkpoint", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("source", metavar="SRC")
  parser.add_argument("target", metavar="DST")
  args = parser.parse_args(argv)
  # An accelerator may be busy with a run, and is of no use here.
  jax.config.update("jax_platforms", "cpu")
  try:
    specs = convert(args.source, args.target)
  except (ConfigError, OSError) as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  print(describe(specs))
  print(f"wrote {args.target}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
