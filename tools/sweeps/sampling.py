"""How well and how fast a prior draws codes with certain options.

  python -m tools.sweeps.sampling --checkpoint W --evaluator NAME
    [--set num_iter=4 …] --out DIR

W is the workdir of a stage II run, NAME one of its evaluators, which says the
images. --set are options of the prediction, as of tools.evaluate. Writes
DIR/sampling.json: the evaluator's metrics, and

  ms_per_image  milliseconds from image to output, on all devices of this
                machine, in batches of the evaluator's size; the best of a few
                batches after the program is compiled.
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools.evaluate import parse_changes
from tools.sweeps import runs
from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError

TIME = "ms_per_image"
_REPEATS = 5


def best_ms_per_image(
    predict: Callable[[], Any], batch_size: int, *,
    clock: Callable[[], float] = time.perf_counter) -> float:
  """Milliseconds of the fastest of a few calls, for each image of a batch.

  The first call, which compiles, does not count.

  Args:
    predict: makes one batch of predictions, and returns when it is done.
    batch_size: images in it.
    clock: seconds.
  """
  predict()
  seconds = []
  for _ in range(_REPEATS):
    started = clock()
    predict()
    seconds.append(clock() - started)
  # Whatever else the machine does only adds to a time.
  return 1000 * min(seconds) / batch_size


def run(
    checkpoint: str,
    name: str,
    changes: Mapping[str, Any],
    out: pathlib.Path,
) -> None:
  """What the command does; see the file's docstring.

  Raises:
    ConfigError: no such run or evaluator, a run of another kind, an unknown
      option, or an evaluator that cannot score.
  """
  from trainers import scoring
  config = scoring.config_of(checkpoint)
  block, = scoring.choose(config, [name])
  if config.kind != "lm" or block.pred != "predict":
    raise ConfigError(f"--checkpoint {checkpoint} --evaluator {name}: it must "
                      "be an evaluator of a stage II run with pred 'predict'.")
  result, = scoring.score(checkpoint, config, names=[name], changes=changes)
  if result["problem"]:
    raise ConfigError(f"{name} could not score: {result['problem']}")
  figures = {metric.removeprefix(block.prefix): value
             for metric, value in result["metrics"].items()}
  figures[TIME] = _time(checkpoint, config, block, changes)
  # Last: it says that all is there.
  files.write_json(
      runs.measured_file(out, runs.SAMPLING), figures, indent=1)


def _time(checkpoint, config, block, changes) -> float:
  """Milliseconds per image of one batch of the evaluator's split."""
  import jax

  from pp import splits
  from trainers import evaluation, scoring
  from trainers.families import open_checkpoint
  from trainers.families.base import Compiled
  from uvim.learn import sharding
  family, variables = open_checkpoint(checkpoint, config)
  block = scoring.changed(block, changes, family.options(block.pred))
  split = splits.open_split(block.dataset, block.split, block.data_dir)
  batches = split.eval_batches(
      split.make_preprocess(block.pp, config.pp_modules),
      batch_size=block.batch_size)
  batch = evaluation.unmasked(next(batches.start()))
  mesh = sharding.make_mesh((("data", -1),))
  variables = jax.device_put(variables, sharding.replicated(mesh))
  batch = sharding.shard_batch(batch, mesh)
  program = Compiled(family)(block.pred, **block.pred_kw)

  def predict():
    return jax.block_until_ready(program(variables, batch))

  return best_ms_per_image(predict, block.batch_size)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.sweeps.sampling", __doc__)
  add = parser.add_argument
  add("--checkpoint", required=True, help="workdir of a stage II run")
  add("--evaluator", required=True, help="one of its evaluators")
  add("--set", dest="changes", action="append", default=[],
      metavar="KEY=VALUE")
  add("--out", required=True, help="folder of the results")
  return app.run(parser, command, argv)


def command(args: argparse.Namespace) -> None:
  from trainers import config_file
  config_file.quiet_absl()  # TFDS warns of its own calls.
  changes = parse_changes(args.changes)
  run(args.checkpoint, args.evaluator, changes, pathlib.Path(args.out))


if __name__ == "__main__":
  sys.exit(main())
