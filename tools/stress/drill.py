"""Kills training runs at random moments; what they end with must not differ.

  python -m tools.drill --minutes 5

A tiny stage I and a tiny stage II are trained on `rooms`, first undisturbed,
then under SIGKILL: at any time, in start-up, in an evaluation, and while a
checkpoint is being written. After each kill the same command runs again. At
the end parameters, optimizer, dictionary, key and every line of metrics.jsonl
must be those of the undisturbed run, bit for bit. The moments follow from
--seed, though not to the microsecond.

The exit code is 0 if all runs agree, else 1.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import pathlib
import random
import struct
import sys
import tempfile
import time

CONFIG = """
from configs import {name}_rooms_panoptic

def get_config():
  config = {name}_rooms_panoptic.get_config("tiny")
  config.data_dir = {data_dir!r}
  config.total_steps = {steps}
  config.log_training_steps = 1
  config.checkpoint_steps = 3
  config.log_eval_steps = 4
  config.mesh = [("data", 1)]
  config.val_split = None
  for other in [name for name, _ in config.evals if name != "zero_code"]:
    del config[other]
  config.evals = [("zero_code", "coco_panoptic")]
  config.zero_code.log_steps = 4
  if "oracle" in config:
    config.oracle.model_init = {oracle!r}
  return config
"""
# What a child notes in a shared file: where it is, and its step.
MARKS = struct.Struct("II")
PHASES = "start-up", "step", "evaluation"
WRITING = "checkpoint write"
MOMENTS = "any", "start-up", WRITING, "evaluation", "step", WRITING
# Imported once, by the process that all runs are forked from: a run then
# costs its own start-up, not that of Python and TensorFlow.
PRELOAD = ["tensorflow_datasets", "pp.stream", "evaluators.coco_panoptic",
           "trainers.loop", "trainers.vqvae", "trainers.lm"]


def train(name: str, config: str, workdir: str, marks: str, log: str) -> None:
  """What a child does: one run of a trainer, leaving with its exit code."""
  with open(log, "a") as f:
    os.dup2(f.fileno(), 1)
    os.dup2(f.fileno(), 2)
  from trainers import lm, loop, main, vqvae
  with open(marks, "r+b") as f:
    shared = mmap.mmap(f.fileno(), MARKS.size)
  run = loop._Run

  def noting(method, during, after):
    def noted(self, *args):
      shared[:] = MARKS.pack(during, getattr(self, "step", 0))
      out = method(self, *args)
      shared[:] = MARKS.pack(after, self.step)
      return out
    return noted

  run.start = noting(run.start, 0, 1)
  run.evaluate = noting(run.evaluate, 2, 1)
  run.settle = noting(run.settle, 1, 1)
  stage = {"vqvae": vqvae.VqvaeStage, "lm": lm.LmStage}[name]
  sys.exit(main.command(
      stage, name, ["drill", "--config", config, "--workdir", workdir]))


def make_data(folder: str, log: str) -> None:
  """`rooms/tiny`, made in a process of its own."""
  with open(log, "a") as f:
    os.dup2(f.fileno(), 1)
    os.dup2(f.fileno(), 2)
  from pp.rooms import builder as rooms
  rooms.build(folder, "tiny")


class Trainer:
  """A stage: its command, and how long an undisturbed run of it takes."""

  def __init__(self, context, folder: pathlib.Path, name: str, steps: int):
    self.context, self.folder, self.name = context, folder, name
    self.steps = steps
    self.config = folder / f"{name}.py"
    self.whole = folder / f"{name}_whole"
    self.marks, self.log = folder / "marks", folder / "log.txt"
    self.config.write_text(CONFIG.format(
        name=name, data_dir=str(folder / "data"), steps=steps,
        oracle=str(folder / "vqvae_whole")))

  def begin(self, workdir: pathlib.Path):
    """Starts the command on a workdir."""
    self.marks.write_bytes(MARKS.pack(0, 0))
    process = self.context.Process(target=train, args=(
        self.name, str(self.config), str(workdir), str(self.marks),
        str(self.log)))
    process.start()
    return process

  def marked(self, workdir: pathlib.Path) -> tuple[str, int]:
    """Where a run is or was: (phase, step)."""
    phase, step = MARKS.unpack(self.marks.read_bytes())
    return WRITING if is_writing(workdir) else PHASES[phase], step

  def run_whole(self) -> None:
    """The undisturbed run, twice: the second finds its programs compiled.

    Raises:
      RuntimeError: it failed, or differs from itself.
    """
    first = self.folder / f"{self.name}_first"
    for workdir in (first, self.whole):
      began = time.monotonic()
      process, self.start_up = self.begin(workdir), None
      while process.is_alive():
        time.sleep(0.01)
        if self.start_up is None and self.marked(workdir)[0] != PHASES[0]:
          self.start_up = time.monotonic() - began
      process.join()
      self.seconds = time.monotonic() - began
      check(process.exitcode == 0, f"{self.name} failed; see {self.log}")
    check(not differences(first, self.whole),
          f"two undisturbed runs of {self.name} differ")


def check(fine: bool, message: str) -> None:
  if not fine:
    raise RuntimeError(message)


def is_writing(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint has not yet got its final name."""
  try:
    names = os.listdir(workdir / "checkpoints")
  except FileNotFoundError:
    return False
  return any("orbax-checkpoint-tmp" in name for name in names)


def kill_at(trainer: Trainer, workdir: pathlib.Path, moment: str,
            rng: random.Random) -> tuple[str, int] | None:
  """Starts a run and kills it; (phase, step) then, None if it had ended."""
  process = trainer.begin(workdir)
  try:
    if moment in ("any", "start-up"):
      time.sleep(rng.uniform(0, {
          "any": trainer.seconds, "start-up": trainer.start_up}[moment]))
    else:
      # Not the first of its kind each time: some way into the run.
      time.sleep(trainer.start_up + rng.uniform(
          0, 0.5 * (trainer.seconds - trainer.start_up)))
      while process.is_alive() and trainer.marked(workdir)[0] != moment:
        time.sleep(0.0005)
      time.sleep(rng.uniform(0, 0.01))
    ended = not process.is_alive()
  finally:
    process.kill()
    process.join()
  if not ended:
    return trainer.marked(workdir)
  check(process.exitcode == 0, f"{trainer.name} failed; see {trainer.log}")
  return None


def kept_steps(workdir: pathlib.Path) -> list[int]:
  """Steps with a finished checkpoint."""
  return [int(p.name) for p in (workdir / "checkpoints").glob("*")
          if p.name.isdecimal()]


def read_arrays(workdir: pathlib.Path, step: int | None = None) -> dict:
  """Every array of a checkpoint, the last if no step is given, by name."""
  import jax
  import numpy as np
  import orbax.checkpoint as ocp
  step = max(kept_steps(workdir)) if step is None else step
  path = workdir.absolute() / "checkpoints" / str(step) / "state"
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(np.ndarray),
                            reader.metadata(path).item_metadata.tree)
    tree = reader.restore(path, args=ocp.args.PyTreeRestore(
        restore_args=as_numpy))
  return {jax.tree_util.keystr(k): v
          for k, v in jax.tree_util.tree_leaves_with_path(tree)}


def differences(workdir: pathlib.Path, whole: pathlib.Path) -> list[str]:
  """What a run ended with and an undisturbed one did not."""
  got, want = read_arrays(workdir), read_arrays(whole)
  out = [name for name in sorted({*got, *want})
         if name not in got or name not in want
         or got[name].dtype != want[name].dtype
         or got[name].tobytes() != want[name].tobytes()]
  lines, others = (
      [json.loads(line) for line in
       (folder / "metrics.jsonl").read_text().splitlines()]
      for folder in (workdir, whole))
  # Compared as text: NaN is not equal to itself.
  return out + [f"metrics.jsonl, line {i + 1}" for i in range(
      max(len(lines), len(others)))
      if repr(lines[i:i + 1]) != repr(others[i:i + 1])]


def torment(trainer: Trainer, workdir: pathlib.Path, moments, rng,
            kills_left, until: float) -> tuple[list[tuple[str, int]], float]:
  """One run with kills: ([(phase, step repeated from there)], its seconds)."""
  kills, began = [], time.monotonic()
  while len(kills) < kills_left and time.monotonic() < until:
    killed = kill_at(trainer, workdir, next(moments), rng)
    if killed is None:
      break
    phase, step = killed
    kills.append((phase, max(0, step - max(kept_steps(workdir), default=0))))
    print(f"  {trainer.name}: killed in {phase}, step {step}", flush=True)
  else:
    process = trainer.begin(workdir)
    process.join()
    check(process.exitcode == 0, f"{trainer.name} failed; see {trainer.log}")
  return kills, time.monotonic() - began


def endless(moments, rng):
  while True:
    yield from rng.sample(moments, len(moments))


def drill(folder: pathlib.Path, *, minutes: float, kills: int, seed: int,
          stages: str, steps: int) -> int:
  """Runs the drill in `folder`; the exit code."""
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(PRELOAD)
  process = context.Process(
      target=make_data, args=(str(folder / "data"), str(folder / "log.txt")))
  process.start()
  process.join()
  check(process.exitcode == 0, f"no data; see {folder / 'log.txt'}")
  rng = random.Random(seed)
  moments = endless(MOMENTS, rng)
  names = ["vqvae", "lm"][:2 if "2" in stages else 1]
  trainers = [Trainer(context, folder, name, steps) for name in names]
  for trainer in trainers:
    trainer.run_whole()
    print(f"{trainer.name}: {steps} steps undisturbed in "
          f"{trainer.seconds:.1f} s, {trainer.start_up:.1f} s of it start-up",
          flush=True)
  trainers = [t for t in trainers if t.name == "lm" or "1" in stages]
  all_kills, lost, bad, rounds = [], 0.0, [], 0
  until = time.monotonic() + 60 * minutes
  while not rounds or (len(all_kills) < kills and time.monotonic() < until):
    trainer = trainers[rounds % len(trainers)]
    workdir = folder / f"{trainer.name}_{rounds}"
    left = max(1, (kills - len(all_kills)) // max(1, len(trainers) - rounds))
    done, seconds = torment(trainer, workdir, moments, rng, left, until)
    all_kills += done
    lost += seconds - trainer.seconds
    rounds += 1
    found = differences(workdir, trainer.whole)
    bad += found
    print(f"{workdir.name}: {len(done)} kills, "
          f"{'differs in ' + ', '.join(found[:5]) if found else 'equal'}",
          flush=True)
  report(all_kills, lost, bad, rounds)
  return 1 if bad else 0


def report(kills, lost, bad, rounds) -> None:
  """The summary."""
  by_phase = {phase: sum(p == phase for p, _ in kills)
              for phase in (*PHASES, WRITING)}
  print(f"kills survived: {len(kills) if not bad else 'not all of'} "
        f"{'' if not bad else len(kills)} in {rounds} runs ("
        + ", ".join(f"{n} in {phase}" for phase, n in by_phase.items()) + ")")
  count = max(1, len(kills))
  print(f"steps repeated: {sum(n for _, n in kills)}, "
        f"{sum(n for _, n in kills) / count:.1f} per kill")
  print(f"seconds lost: {lost / count:.1f} per kill")
  print("all runs equal the undisturbed ones bit for bit" if not bad else
        f"{len(bad)} DIFFERENCES")


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
      description=__doc__.split("\n\n")[0], prog="python -m tools.drill")
  parser.add_argument("--minutes", type=float, default=5,
                      help="how long to go on killing")
  parser.add_argument("--kills", type=int, default=10**9,
                      help="stop killing after so many")
  parser.add_argument("--stages", choices=["1", "2", "12"], default="12")
  parser.add_argument("--steps", type=int, default=24, help="of each run")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workdir", type=pathlib.Path,
                      help="kept, if given; must not exist")
  args = parser.parse_args(argv)
  options = dict(minutes=args.minutes, kills=args.kills, seed=args.seed,
                 stages=args.stages, steps=args.steps)
  # The runs share what is compiled: a kill shall not cost that again.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  if args.workdir:
    args.workdir.mkdir(parents=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR",
                          str(args.workdir.absolute() / "compiled"))
    return drill(args.workdir.absolute(), **options)
  with tempfile.TemporaryDirectory() as folder:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
    return drill(pathlib.Path(folder), **options)


if __name__ == "__main__":
  sys.exit(main())
