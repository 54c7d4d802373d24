"""Which runs the cells of a sweep consist of.

The name of a run's folder holds a hash of its resolved config. So cells of one
or several sweeps that need the same run share it.
"""

import ast
import dataclasses
import hashlib
import json
import pathlib
import runpy
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tools.sweeps.runs import Run
from trainers import config_file
from uvim.config import RESUME_FREE, resolve
from uvim.registry import ConfigError, unknown

FOLDER = "configs/sweeps"
RECIPE = "recipe"

# Of configs/sweeps/recipe.py. The tools import no configs: they load the file
# that a user names.
Sweep = Any
Cell = Any

# The runs of a cell, by stage.
CellRuns = dict[int | str, Run]
# (cell, seed) → its runs.
Cells = dict[tuple[str, int], CellRuns]


def names() -> list[str]:
  """The names of all sweeps.

  Raises:
    ConfigError: not started where the configs are.
  """
  if not pathlib.Path(FOLDER).is_dir():
    raise ConfigError(f"There is no {FOLDER} here; start this in the folder "
                      "that holds it.")
  found = []
  for path in pathlib.Path(FOLDER).glob("*.py"):
    if path.stem not in ("__init__", RECIPE):
      found.append(path.stem)
  return sorted(found)


def titles() -> dict[str, str]:
  """The first line of each sweep's docstring, by the sweep's name."""
  found = {}
  for name in names():
    text = pathlib.Path(FOLDER, f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    found[name] = docstring.partition("\n")[0]
  return found


def load_sweep(name: str, size: str) -> Sweep:
  """The sweep of a file; configs/sweeps/recipe.py tells what is in it.

  Raises:
    ConfigError: an unknown sweep or size; not started where the configs are.
  """
  known = names()
  if name not in known:
    raise unknown("sweep", name, known)
  sizes = runpy.run_path(f"{FOLDER}/{RECIPE}.py")["SIZES"]
  if size not in sizes:
    raise unknown("--size", size, sizes)
  module = runpy.run_path(f"{FOLDER}/{name}.py")
  return module["get_sweep"](size)


def plan_runs(sweep: Sweep, *, workdir: str, num_seeds: int,
              data: Mapping[str, str] | None = None) -> Cells:
  """The runs of every cell and seed; all cells of a seed before the next.

  Args:
    sweep: what is to be run.
    workdir: of the sweep; runs lie in its folder `runs`.
    num_seeds: seeds are 0, 1, …
    data: overrides of all configs that say where the data is.

  Raises:
    ConfigError: overrides that the configs do not know.
  """
  folder = pathlib.Path(workdir).absolute() / "runs"
  planner = _Planner(sweep, folder, data or {})
  cells = {}
  for seed in range(num_seeds):
    for name, cell in sweep.cells.items():
      cells[name, seed] = planner.runs_of(cell, seed)
  return cells


@dataclasses.dataclass
class _Planner:
  """Makes runs, each once.

  Attributes:
    sweep: what is to be run.
    folder: of the runs.
    data: see `plan_runs`.
    known: all runs that were made, by name.
  """
  sweep: Sweep
  folder: pathlib.Path
  data: Mapping[str, str]
  known: dict[str, Run] = dataclasses.field(default_factory=dict)

  def runs_of(self, cell: Cell, seed: int) -> CellRuns:
    """The runs of a cell, by stage."""
    recipe = cell.recipe or self.sweep.recipe
    last_stage = 1 if recipe.stage2 is None else 2
    runs = {1: self._training(cell, seed, None)}
    if cell.stage2 is not None:
      runs[2] = self._training(cell, seed, runs[1])
    # A cell without its last stage has nothing to measure.
    if self.sweep.evaluator and last_stage in runs:
      measure = self.sweep.measure
      runs[measure] = self._measurement(measure, runs[last_stage], cell)
    return runs

  def _training(self, cell: Cell, seed: int, stage1: Run | None) -> Run:
    """Stage I, or stage II on the code of the run `stage1`."""
    recipe = cell.recipe or self.sweep.recipe
    if stage1 is None:
      stage = 1
      shipped = recipe.stage1
    else:
      stage = 2
      shipped = recipe.stage2
    overrides = {**shipped.overrides, "seed": seed, **self.data,
                 **overrides_of(cell, stage)}
    if stage1 is not None:
      overrides["oracle.model_init"] = stage1.workdir
    flags = tuple(f"--config.{name}={value}"
                  for name, value in overrides.items())
    path = _with_argument(shipped.config, cell.argument)
    config = resolve(config_file.load_config(path, flags))
    name = f"stage{stage}-{_hash_of(config, self.folder)}"
    workdir = self.folder / name
    command = (sys.executable, "-m", f"trainers.{config.kind}", "--config",
               path, "--workdir", str(workdir), *flags)
    return self._known(Run(
        name, stage, command, workdir, needs=stage1,
        cost=shipped.cost * cell.cost[stage - 1],
        prefixes=tuple(block.prefix for block in config.evals),
        dataset=config.dataset))

  def _measurement(self, measure: str, training: Run, cell: Cell) -> Run:
    """The run of tools.sweeps.MEASURE on the last training of a cell."""
    hash_of_training = training.name.removeprefix(f"stage{training.stage}-")
    name = f"{measure}-{hash_of_training}"
    if cell.evaluator:
      name += f"-{cell.evaluator}"
    options = []
    for option, value in cell.sampling.items():
      name += f"-{option}{value}"
      options += ["--set", f"{option}={value}"]
    workdir = self.folder / name
    command = (sys.executable, "-m", f"tools.sweeps.{measure}",
               "--checkpoint", str(training.workdir),
               "--evaluator", cell.evaluator or self.sweep.evaluator, *options,
               "--out", str(workdir))
    return self._known(
        Run(name, measure, command, workdir, needs=training, cost=0))

  def _known(self, run: Run) -> Run:
    """The run of this name; equal runs of two cells become one."""
    return self.known.setdefault(run.name, run)


def _with_argument(path: str, argument: str) -> str:
  """A config file with one more argument behind its colon."""
  if not argument:
    return path
  separator = "," if ":" in path else ":"
  return f"{path}{separator}{argument}"


def overrides_of(cell: Cell, stage: int) -> dict[str, Any]:
  """What a cell changes in the config of a stage."""
  if stage == 1:
    return dict(cell.stage1)
  overrides = {}
  for name, value in cell.stage1.items():
    # The frozen oracle must be built as it was trained.
    if name.startswith("model."):
      overrides[f"oracle.{name}"] = value
  return {**overrides, **(cell.stage2 or {})}


def _hash_of(config, folder: pathlib.Path) -> str:
  """Equal for runs that compute the same, wherever they lie."""
  fields = {}
  for name, value in config.to_json().items():
    if name not in RESUME_FREE:
      fields[name] = value
  text = json.dumps(fields, sort_keys=True).replace(str(folder), "")
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def unique_runs(cells: Cells) -> list[Run]:
  """Each run once, after the one it needs."""
  by_name = {}
  for cell_runs in cells.values():
    for run in cell_runs.values():
      by_name[run.name] = run
  return list(by_name.values())


def by_seed(cells: Cells, name: str) -> dict[int, CellRuns]:
  """The runs of one cell by seed."""
  found = {}
  for (other, seed), cell_runs in cells.items():
    if other == name:
      found[seed] = cell_runs
  return found


def commands_of(runs: Sequence[Run]) -> str:
  """The commands as a user may type them."""
  lines = [shlex.join(["python", *run.command[1:]]) for run in runs]
  return "\n".join(lines)
