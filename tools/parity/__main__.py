"""Compares this code with the original implementation, array by array.

  python -m tools.parity DIR [PATTERN]

DIR holds inputs and outputs of the original as `.npz`, `.json` and `.txt`
files; PATTERN, a regular expression, picks some of them by name. Prints a line
per quantity: its name, the largest absolute error, the same relative to the
largest magnitude that is expected, and the verdict. Floats must agree to 1e-5
of that magnitude (what passes through a bfloat16, to its last bit), everything
else exactly. Then a line per file, and one in all. What this code has no
counterpart for is named too, as "not compared".

The exit status is 0 if something was compared and nothing failed.
"""

import collections
import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tools.parity import common
from tools.parity.common import Quantity, Verdict


def _stage1():
  from tools.parity import stage1 as parity_stage1
  return parity_stage1.run


def _stage2():
  from tools.parity import stage2 as parity_stage2
  return parity_stage2.run


def _pp():
  from tools.parity import pp as parity_pp
  return parity_pp.run


def _part(name):
  def load():
    from tools.parity import parts as parity_parts
    return getattr(parity_parts, name)
  return load


# The file that begins a fixture → what runs it: (path, other files) → …
KINDS = (
    (r"stage1_.+\.json", _stage1),
    (r"stage2.*\.json", _stage2),
    (r"pp_ops.*\.json", _pp),
    (r"optax.*\.json", _part("run_optax")),
    (r"schedules.*\.npz", _part("run_schedules")),
    (r"panoptic_predict.*\.npz", _part("run_panoptic")),
    (r"eval_metrics.*\.npz", _part("run_metrics")),
    (r"param_tree_.+\.txt", _part("run_names")),
)


@dataclasses.dataclass
class Fixture:
  """Files that belong together.

  Attributes:
    path: the one that begins it.
    load: gives the function that runs it.
    parts: the others, by what follows the name of the first and '_'.
  """
  path: pathlib.Path
  load: Callable[[], Callable[..., Iterable[Quantity]]]
  parts: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)


def find(folder: pathlib.Path) -> tuple[list[Fixture], list[pathlib.Path]]:
  """The fixtures of a folder, and the data files that belong to none."""
  files = sorted(p for p in folder.iterdir()
                 if p.suffix in (".npz", ".json", ".txt"))
  found = {path: Fixture(path, load) for path in files
           for pattern, load in KINDS if re.fullmatch(pattern, path.name)}
  others = []
  for path in files:
    if path in found:
      continue
    # The longest name: stage1_a_b_out is of stage1_a_b, not of stage1_a.
    owner = max((f for f in found.values() if _belongs(path, f)),
                key=lambda f: len(f.path.stem), default=None)
    if owner is None:
      others.append(path)
    else:
      part = path.stem.removeprefix(owner.path.stem).removeprefix("_")
      owner.parts[part] = path
  return list(found.values()), others


def _belongs(path, fixture):
  return (fixture.path.suffix == ".json" and path.suffix == ".npz"
          and f"{path.stem}_".startswith(f"{fixture.path.stem}_"))


def compare(folder: pathlib.Path, pattern: str = "") -> Iterator[Verdict]:
  """The verdict on every quantity of a folder.

  Args:
    folder: where the fixtures lie.
    pattern: only those whose first file's name it occurs in.
  """
  fixtures, others = find(folder)
  for fixture in fixtures:
    if re.search(pattern, fixture.path.name):
      yield from _run(fixture)
  for path in others:
    if re.search(pattern, path.name):
      yield Verdict(path.name, common.NOT_COMPARED,
                    note="no fixture that it belongs to")


def _run(fixture: Fixture) -> Iterator[Verdict]:
  def quantities():
    yield from fixture.load()(fixture.path, dict(fixture.parts))

  count = 0
  for quantity in common.guarded(fixture.path.name, quantities()):
    count += 1
    yield common.judge(quantity)
  if not count:
    yield Verdict(fixture.path.name, common.NOT_COMPARED,
                  note="holds no result")


def show(verdicts: Iterable[Verdict]) -> bool:
  """Prints the report; whether all is well."""
  files = collections.defaultdict(list)
  for verdict in verdicts:
    print(_line(verdict), flush=True)
    files[re.split("[/:]", verdict.name)[0]].append(verdict)
  print()
  for name, some in files.items():
    print(f"{name}: {_count(some)}")
  every = [verdict for some in files.values() for verdict in some]
  print(f"\n{len(every)} quantities: {_count(every)}")
  statuses = {verdict.status for verdict in every}
  return common.PASS in statuses and common.FAIL not in statuses


def _line(verdict: Verdict) -> str:
  errors = "  ".join("      –" if np.isnan(x) else f"{x:7.1e}" for x in
                     (verdict.abs_error, verdict.rel_error))
  note = f"  ({verdict.note})" if verdict.note else ""
  return f"{verdict.name:72}  {errors}  {verdict.status}{note}"


def _count(verdicts: list[Verdict]) -> str:
  counts = collections.Counter(verdict.status for verdict in verdicts)
  text = ", ".join(
      f"{counts[status]} {status}" for status in
      (common.PASS, common.FAIL, common.INFORMATIVE, common.NOT_COMPARED)
      if counts[status] or status == common.FAIL)
  worst = [v.rel_error for v in verdicts
           if v.status == common.PASS and not np.isnan(v.rel_error)]
  return text + (f"; largest relative error that passes {max(worst):.1e}"
                 if worst else "")


def main(argv: list[str]) -> int:
  """The command line; returns the exit status."""
  folder = pathlib.Path(argv[0]) if argv else None
  if folder is None or len(argv) > 2 or not folder.is_dir():
    print(__doc__ if folder is None or len(argv) > 2 else
          f"error: {folder} is no folder.", file=sys.stderr)
    return 2
  import jax
  # Accelerators round the inputs of matrix products unless told not to.
  with jax.default_matmul_precision("highest"):
    return 0 if show(compare(folder, *argv[1:])) else 1


if __name__ == "__main__":
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  sys.exit(main(sys.argv[1:]))
