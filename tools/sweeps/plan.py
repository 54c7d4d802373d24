"""Which runs the cells of a sweep consist of, and how far they are.

A run's folder is named by a hash of its resolved config, so that cells of one
or several sweeps which need the same run share it.
"""

import dataclasses
import hashlib
import json
import pathlib
import runpy
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.evaluate import read_config
from trainers.report import run_files
from uvim.config import RESUME_FREE
from uvim.registry import ConfigError, unknown

FOLDER = "configs/sweeps"
RECIPE = "recipe"
MASKING = "masking"
MASKING_FILE = "masking.json"


@dataclasses.dataclass(frozen=True)
class Run:
  """One process: a training, or a measurement of one.

  Attributes:
    name: its folder's; says stage and hash.
    stage: 1, 2 or 'masking'.
    command: what starts it, and what resumes it.
    workdir: its folder.
    needs: the run that must be done before, or None.
    cost: how long it takes, in the recipe's unit.
    prefixes: what its evaluators put before their scores.
  """
  name: str
  stage: int | str
  command: tuple[str, ...]
  workdir: pathlib.Path
  needs: "Run | None"
  cost: float
  prefixes: tuple[str, ...] = ()

  @property
  def log(self) -> pathlib.Path:
    return self.workdir.parent / f"{self.name}.log"

  @property
  def failure(self) -> pathlib.Path:
    """Why it failed the last time; not there if it did not."""
    return self.workdir.parent / f"{self.name}.failed"


# (cell, seed) → its runs by stage.
Cells = dict[tuple[str, int], dict[int | str, Run]]


def names() -> list[str]:
  """All sweeps there are."""
  return sorted(path.stem for path in pathlib.Path(FOLDER).glob("*.py")
                if path.stem not in ("__init__", RECIPE))


def load(name: str, size: str) -> dict[str, Any]:
  """The sweep; configs/sweeps/recipe.py tells what is in it.

  Raises:
    ConfigError: an unknown sweep or size; not started where the configs are.
  """
  if not pathlib.Path(FOLDER).is_dir():
    raise ConfigError(f"There is no {FOLDER} here; start this in the folder "
                      "that holds it.")
  if name not in names():
    raise unknown("sweep", name, names())
  recipe = runpy.run_path(f"{FOLDER}/{RECIPE}.py")
  if size not in recipe["SIZES"]:
    raise unknown("--size", size, recipe["SIZES"])
  return runpy.run_path(f"{FOLDER}/{name}.py")["get_sweep"](size)


def plan(sweep: Mapping[str, Any], *, workdir: str, num_seeds: int,
         data: Mapping[str, str] | None = None) -> Cells:
  """(cell, seed) → its runs by stage; all cells of a seed before the next.

  Args:
    sweep: see `load`.
    workdir: of the sweep; runs lie in its folder `runs`.
    num_seeds: seeds are 0, 1, …
    data: overrides of all configs that say where the data is.

  Raises:
    ConfigError: overrides that the configs do not know.
  """
  folder, known = pathlib.Path(workdir).absolute() / "runs", {}

  def add(run):  # Two cells' equal runs become one.
    return known.setdefault(run.name, run)

  out = {}
  for seed in range(num_seeds):
    common = {"seed": seed, **(data or {})}
    for name, cell in sweep["cells"].items():
      runs = out[name, seed] = {}
      runs[1] = add(_training(sweep, cell, common, folder, None))
      if cell.get("stage2", {}) is not None:
        runs[2] = add(_training(sweep, cell, common, folder, runs[1]))
        if "evaluator" in sweep:
          runs[MASKING] = add(_masking(sweep, folder, runs[2]))
  return out


def overrides(cell: Mapping[str, Any], stage: int) -> dict[str, Any]:
  """What a cell changes in the config of a stage."""
  first = cell.get("stage1", {})
  if stage == 1:
    return dict(first)
  oracle = {f"oracle.{k}": v for k, v in first.items()
            if k.startswith("model.")}
  return oracle | (cell.get("stage2") or {})


def _training(sweep, cell, common, folder, stage1) -> Run:
  """Stage I, or stage II for the code of the run `stage1`."""
  stage = 2 if stage1 else 1
  values = sweep["steps"][stage - 1] | common | overrides(cell, stage)
  if stage1:
    values["oracle.model_init"] = stage1.workdir
  flags = tuple(f"--config.{k}={v}" for k, v in values.items())
  path = sweep["configs"][stage - 1]
  config = read_config("", path, flags)
  name = f"stage{stage}-{_key(config, folder)}"
  trainer = "lm" if stage1 else "vqvae"
  return Run(
      name, stage, workdir=folder / name, needs=stage1,
      command=(sys.executable, "-m", f"trainers.{trainer}", "--config", path,
               "--workdir", str(folder / name), *flags),
      cost=sweep["costs"][stage - 1] * cell.get("cost", (1, 1))[stage - 1],
      prefixes=tuple(block.prefix for block in config.evals))


def _key(config, folder) -> str:
  """Equal for runs that compute the same, wherever they lie."""
  fields = {k: v for k, v in config.to_json().items() if k not in RESUME_FREE}
  text = json.dumps(fields, sort_keys=True).replace(str(folder), "")
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def _masking(sweep, folder, stage2: Run) -> Run:
  name = f"{MASKING}-{stage2.name.removeprefix('stage2-')}"
  return Run(
      name, MASKING, workdir=folder / name, needs=stage2, cost=0,
      command=(sys.executable, "-m", "tools.sweeps.masking", "--checkpoint",
               str(stage2.workdir), "--evaluator", sweep["evaluator"],
               "--out", str(folder / name)))


def unique(cells: Cells) -> list[Run]:
  """Each run once, after the one it needs."""
  return list({run.name: run for runs in cells.values()
               for run in runs.values()}.values())


def progress(run: Run) -> tuple[int, int]:
  """(steps reported, steps there are); (0, 1) before it has begun."""
  if run.stage == MASKING:
    return int((run.workdir / MASKING_FILE).exists()), 1
  sessions = run.workdir / run_files.SESSIONS
  if not sessions.exists():
    return 0, 1
  total = json.loads(sessions.read_text())[-1]["total_steps"]
  lines = list(metrics(run))
  step = max((line["step"] for line in lines), default=0)
  if step < total or _ended(run, lines, total):
    return step, total
  return total - 1, total


def metrics(run: Run) -> Iterator[dict[str, Any]]:
  """The lines of metrics.jsonl, without one that a kill cut short."""
  path = run.workdir / "metrics.jsonl"
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      yield json.loads(line)
    except ValueError:
      continue


def _ended(run: Run, lines: Sequence[Mapping[str, Any]], total: int) -> bool:
  """Every evaluator has spoken after the last step, and that is saved."""
  scores = [name for line in lines for name in line
            if line["step"] == total and "settings" in line]
  return (run.workdir / "checkpoints" / str(total)).exists() and all(
      any(name.startswith(prefix) for name in scores)
      for prefix in run.prefixes)


def is_done(run: Run) -> bool:
  step, total = progress(run)
  return step == total


def reason(run: Run) -> str:
  """Why a run is not done; '' if it is."""
  step, total = progress(run)
  if step == total:
    return ""
  if run.failure.exists():
    return f"failed: {run.failure.read_text().strip()}"
  if step:
    return f"stopped at step {step} of {total}"
  if run.needs and reason(run.needs):
    return f"needs {run.needs.name}: {reason(run.needs)}"
  return "not run yet"


def commands(runs: Sequence[Run]) -> str:
  """The commands as one may type them."""
  return "\n".join(shlex.join(["python", *run.command[1:]]) for run in runs)
