"""Kills training runs at random moments; what they end with must not differ.

  python -m tools.drill --minutes 5

A tiny stage I and a tiny stage II are trained on `rooms`, first undisturbed,
then under SIGKILL: at any time, in start-up, in an evaluation, and while a
checkpoint is being written. After each kill the same run starts again; at times
its workdir was moved, a second process starts on it, or the disk is full. At
the end parameters, optimizer, codebook, key and every line of metrics.jsonl
must be those of the undisturbed run, bit for bit. The moments follow from
--seed, though not to the microsecond.

The exit code is 0 if all runs agree, else 1.
"""

import argparse
import collections
import dataclasses
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tools.stress import marks, runs
from tools.stress.runs import Stage
from uvim.cli import app
from uvim.registry import ConfigError

ANY = "any"
# A moment to kill at: ANY time, or while the run is in a phase.
MOMENTS = (ANY, marks.START_UP, marks.WRITING, marks.EVALUATION, marks.STEP,
           marks.WRITING)
# What befalls a run besides the kill, before or after it starts again.
NOTHING = "nothing"
MOVED = "workdir moved"
SECOND = "second starter refused"
FULL_DISK = "full disk"
MISHAPS = (NOTHING, NOTHING, MOVED, SECOND, FULL_DISK)
# Bytes that no file may exceed; checkpoints, metrics or even locks are larger.
DISK_SIZES = (0, 1_000, 20_000, 200_000)
_LOCK_SECONDS = 60  # For a run to take its lock.


@dataclasses.dataclass(frozen=True)
class Kill:
  """What a kill hit.

  Attributes:
    phase: where the run was.
    step: the last step that it had reported.
    num_repeated: how many steps it lost with the checkpoint it goes on from.
  """
  phase: str
  step: int
  num_repeated: int


@dataclasses.dataclass
class Tally:
  """What came of the drill so far.

  Attributes:
    kills: all of them.
    num_runs: how many runs were killed, over and over, and completed.
    seconds_lost: how much longer those took than undisturbed ones.
    differences: what they ended with and the undisturbed did not.
    mishaps: how often each befell a run.
  """
  kills: list[Kill] = dataclasses.field(default_factory=list)
  num_runs: int = 0
  seconds_lost: float = 0.0
  differences: list[str] = dataclasses.field(default_factory=list)
  mishaps: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)


# ── Kills ───────────────────────────────────────────────────────────────────


def start_and_kill(stage: Stage, workdir: pathlib.Path, moment: str,
                   rng: random.Random, *, with_second: bool = False
                   ) -> Kill | None:
  """Starts a run and kills it; None if it had ended before.

  Args:
    stage: what to train.
    workdir: of the run.
    moment: when to kill.
    rng: draws the exact time.
    with_second: starts a second process meanwhile, which must be refused.
  """
  process = stage.start(workdir)
  try:
    if with_second:
      _start_second(stage, workdir, process)
    _wait_for(stage, workdir, process, moment, rng)
    has_ended = not process.is_alive()
  finally:
    process.kill()
    process.join()
  if has_ended:
    stage.finish(process)
    return None
  phase, step = stage.position(workdir)
  last_kept = max(runs.kept_steps(workdir), default=0)
  return Kill(phase, step, max(0, step - last_kept))


def _start_second(stage: Stage, workdir: pathlib.Path, first) -> None:
  """Raises Failed unless a second process is refused, or comes too late."""
  deadline = time.monotonic() + _LOCK_SECONDS
  # A killed run has left its lock: it is the process number that counts.
  while first.is_alive() and not runs.holds_lock(workdir, first.pid):
    if time.monotonic() > deadline:
      raise runs.Failed(f"{workdir} has no lock")
    time.sleep(0.01)
  second = stage.start_second(workdir)
  second.join()
  # If the first has ended meanwhile, the second finds nothing to do.
  is_refused = second.exitcode == app.EXIT_BAD_INPUT
  if first.is_alive() and not is_refused:
    raise runs.Failed(f"a second process on {workdir} ended with "
                      f"{second.exitcode}")


def _fill_disk(stage: Stage, workdir: pathlib.Path, rng: random.Random) -> None:
  """Runs while files cannot grow; raises Failed unless it ends as it should."""
  process = stage.start(workdir, max_file_bytes=rng.choice(DISK_SIZES))
  process.join()
  if process.exitcode not in (app.EXIT_DONE, app.EXIT_BAD_INPUT):
    raise runs.Failed(f"on a full disk {workdir} ended with "
                      f"{process.exitcode}")


def _wait_for(stage: Stage, workdir: pathlib.Path, process, moment: str,
              rng: random.Random) -> None:
  """Sleeps until the moment has come, or the run has ended."""
  if moment == ANY:
    time.sleep(rng.uniform(0, stage.seconds))
    return
  if moment == marks.START_UP:
    time.sleep(rng.uniform(0, stage.start_up_seconds))
    return
  # Not the first of its kind each time: some way into the run.
  training_seconds = stage.seconds - stage.start_up_seconds
  time.sleep(stage.start_up_seconds + rng.uniform(0, 0.5 * training_seconds))
  while process.is_alive():
    phase, _ = stage.position(workdir)
    if phase == moment:
      break
    time.sleep(0.0005)
  time.sleep(rng.uniform(0, 0.01))


def run_with_kills(stage: Stage, workdir: pathlib.Path,
                   draws: "Draws", max_kills: int, deadline: float,
                   tally: Tally) -> pathlib.Path:
  """One run to its end, killed at every moment until the deadline.

  Returns:
    The workdir, which may have moved.
  """
  num_kills = 0
  while num_kills < max_kills and time.monotonic() < deadline:
    mishap = next(draws.mishaps)
    # Before its first start there is nothing to move or to fill.
    if not workdir.exists():
      mishap = NOTHING
    if mishap == MOVED:
      target = workdir.with_name(f"{workdir.name}m")
      workdir = workdir.rename(target)
    elif mishap == FULL_DISK:
      _fill_disk(stage, workdir, draws.rng)
    tally.mishaps[mishap] += 1
    kill = start_and_kill(stage, workdir, next(draws.moments), draws.rng,
                          with_second=mishap == SECOND)
    if kill is None:
      return workdir
    num_kills += 1
    tally.kills.append(kill)
    print(f"  {stage.name}: {mishap}, then killed in {kill.phase}, step "
          f"{kill.step}", flush=True)
  stage.finish(stage.start(workdir))
  return workdir


class Draws:
  """What is drawn at random.

  Attributes:
    rng: draws times.
    moments: when to kill, over and over.
    mishaps: what else happens, over and over.
  """

  def __init__(self, seed: int):
    """Everything follows from the seed."""
    self.rng = random.Random(seed)
    self.moments = _shuffled(self.rng, MOMENTS)
    self.mishaps = _shuffled(self.rng, MISHAPS)


def _shuffled(rng: random.Random, items: Sequence[str]) -> Iterator[str]:
  """All items in a random order, over and over."""
  while True:
    yield from rng.sample(items, len(items))


# ── Differences ─────────────────────────────────────────────────────────────


def differences(workdir: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """What a run ended with and an undisturbed one did not."""
  return (_different_arrays(read_arrays(workdir), read_arrays(whole))
          + _different_lines(workdir, whole))


def read_arrays(workdir: pathlib.Path,
                step: int | None = None) -> dict[str, Any]:
  """Every array of a checkpoint as numpy, by name; None: of the last."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp
  if step is None:
    step = max(runs.kept_steps(workdir))
  path = workdir.absolute() / "checkpoints" / str(step) / "state"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray),
                            reader.metadata(path).item_metadata.tree)
    tree = reader.restore(
        path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return {jax.tree_util.keystr(key): array
          for key, array in jax.tree_util.tree_leaves_with_path(tree)}


def _different_arrays(arrays, expected) -> list[str]:
  """Names of arrays that differ in a bit, or that only one side has."""
  names = []
  for name in sorted({*arrays, *expected}):
    is_in_both = name in arrays and name in expected
    if not is_in_both or not _same_bits(arrays[name], expected[name]):
      names.append(name)
  return names


def _same_bits(array, expected) -> bool:
  return (array.dtype == expected.dtype
          and array.tobytes() == expected.tobytes())


def _different_lines(workdir: pathlib.Path,
                     whole: pathlib.Path) -> list[str]:
  """Lines of metrics.jsonl that differ, or that only one side has."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  expected = (whole / "metrics.jsonl").read_text().splitlines()
  names = []
  for i in range(max(len(lines), len(expected))):
    # Slices: they are empty where a file has ended.
    if lines[i:i + 1] != expected[i:i + 1]:
      names.append(f"metrics.jsonl, line {i + 1}")
  return names


# ── The drill ───────────────────────────────────────────────────────────────


def drill(folder: pathlib.Path, *, minutes: float, kills: int, seed: int,
          stages: str, steps: int) -> int:
  """Runs the drill in `folder`; the exit code.

  Args:
    folder: where data, configs and runs go.
    minutes: how long to go on killing.
    kills: stop killing after so many.
    seed: what the moments follow from.
    stages: '1', '2' or '12'.
    steps: of each run.
  """
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(runs.PRELOAD)
  _make_data(context, folder)
  killed_stages = _prepare_stages(context, folder, stages, steps)
  draws = Draws(seed)
  tally = Tally()
  deadline = time.monotonic() + 60 * minutes
  while True:
    stage = killed_stages[tally.num_runs % len(killed_stages)]
    # What is left is shared by the stages that have not been killed yet.
    kills_left = kills - len(tally.kills)
    stages_left = max(1, len(killed_stages) - tally.num_runs)
    max_kills = max(1, kills_left // stages_left)
    workdir = folder / f"{stage.name}_{tally.num_runs}"
    _run_and_compare(stage, workdir, draws, max_kills, deadline, tally)
    if len(tally.kills) >= kills or time.monotonic() >= deadline:
      break
  report(tally)
  return 1 if tally.differences else 0


def _make_data(context, folder: pathlib.Path) -> None:
  log_path = folder / "log.txt"
  process = context.Process(target=runs.make_data,
                            args=(folder / "data", log_path))
  process.start()
  process.join()
  if process.exitcode:
    raise runs.Failed(f"no data; see {log_path}")


def _prepare_stages(context, folder: pathlib.Path, stages: str,
                    num_steps: int) -> list[Stage]:
  """Trains the stages undisturbed; those that are to be killed."""
  # Stage II needs stage I as its oracle.
  names = ["vqvae", "lm"] if "2" in stages else ["vqvae"]
  prepared = []
  for name in names:
    stage = Stage(context, folder, name, num_steps)
    # Twice: the second run finds its programs compiled, as killed runs do.
    first = folder / f"{name}_first"
    stage.run_undisturbed(first)
    stage.run_undisturbed(stage.whole)
    if differences(first, stage.whole):
      raise runs.Failed(f"two undisturbed runs of {name} differ")
    print(f"{name}: {num_steps} steps undisturbed in {stage.seconds:.1f} s, "
          f"{stage.start_up_seconds:.1f} s of it start-up", flush=True)
    if name == "lm" or "1" in stages:
      prepared.append(stage)
  return prepared


def _run_and_compare(stage: Stage, workdir: pathlib.Path, draws: Draws,
                     max_kills: int, deadline: float, tally: Tally) -> None:
  """One run with kills; adds what came of it to the tally."""
  began = time.monotonic()
  kills_before = len(tally.kills)
  workdir = run_with_kills(stage, workdir, draws, max_kills, deadline, tally)
  seconds = time.monotonic() - began
  found = differences(workdir, stage.whole)
  tally.num_runs += 1
  tally.seconds_lost += seconds - stage.seconds
  tally.differences += found
  outcome = f"differs in {', '.join(found[:5])}" if found else "equal"
  num_kills = len(tally.kills) - kills_before
  print(f"{workdir.name}: {num_kills} kills, {outcome}", flush=True)


def report(tally: Tally) -> None:
  """Prints the summary."""
  num_kills = len(tally.kills)
  num_survived = f"not all of {num_kills}" if tally.differences else num_kills
  num_of_phase = collections.Counter(kill.phase for kill in tally.kills)
  phases = ", ".join(f"{num_of_phase[phase]} in {phase}"
                     for phase in (*marks.MARKED_PHASES, marks.WRITING))
  print(f"kills survived: {num_survived} in {tally.num_runs} runs ({phases})")
  mishaps = ", ".join(f"{tally.mishaps[name]} × {name}"
                      for name in (MOVED, SECOND, FULL_DISK))
  print(f"besides: {mishaps}")
  num_repeated = sum(kill.num_repeated for kill in tally.kills)
  per_kill = max(1, num_kills)
  print(f"steps repeated: {num_repeated}, "
        f"{num_repeated / per_kill:.1f} per kill")
  print(f"seconds lost: {tally.seconds_lost / per_kill:.1f} per kill")
  if tally.differences:
    print(f"{len(tally.differences)} DIFFERENCES")
  else:
    print("all runs equal the undisturbed ones bit for bit")


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit code."""
  parser = app.make_parser("tools.drill", __doc__)
  parser.add_argument("--minutes", type=float, default=5,
                      help="how long to go on killing")
  parser.add_argument("--kills", type=int, default=10**9,
                      help="stop killing after so many")
  parser.add_argument("--stages", choices=["1", "2", "12"], default="12")
  parser.add_argument("--steps", type=int, default=24, help="of each run")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workdir", type=pathlib.Path,
                      help="kept, if given; must not exist")
  return app.run(parser, _command, argv)


def _command(args: argparse.Namespace) -> int:
  if args.workdir is None:
    with tempfile.TemporaryDirectory() as folder:
      return _drill_in(pathlib.Path(folder), args)
  if args.workdir.exists():
    raise ConfigError(f"--workdir {args.workdir} exists already.")
  args.workdir.mkdir(parents=True)
  return _drill_in(args.workdir.absolute(), args)


def _drill_in(folder: pathlib.Path, args: argparse.Namespace) -> int:
  # The runs share what is compiled, so that a restart does not recompile.
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  return drill(folder, minutes=args.minutes, kills=args.kills, seed=args.seed,
               stages=args.stages, steps=args.steps)


if __name__ == "__main__":
  sys.exit(main())
