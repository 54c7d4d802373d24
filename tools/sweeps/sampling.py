"""How well and how fast a model predicts with certain options.

  python -m tools.sweeps.sampling --checkpoint W --evaluator NAME
    [--set num_iter=4 …] --out DIR

W is the workdir of a run, NAME one of its evaluators, which says the images.
--set are options of the prediction or of the evaluator, as of tools.evaluate.
Writes DIR/sampling.json: the evaluator's metrics, and

  ms_per_image       milliseconds from image to output, on all devices of this
                     machine, of the fastest batch;
  images_per_second  the same as a rate;
  num_params         parameters of the model, an oracle included.
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
RATE = "images_per_second"
SIZE = "num_params"
_MS_A_SECOND = 1000
# What can be timed: one answer for each image, or several.
_PREDICTORS = ("predict", "samples")


class Timed:
  """Predictions of a `Compiled`, with the time that each batch takes.

  Attributes:
    seconds: of each batch; compiling does not count.
  """

  def __init__(self, compiled: Callable[..., Callable], *,
               clock: Callable[[], float] = time.perf_counter):
    """Wraps predictions.

    Args:
      compiled: `trainers.families.base.Compiled`.
      clock: seconds.
    """
    self.seconds: list[float] = []
    self._compiled = compiled
    self._clock = clock

  def __call__(self, name: str, **options: Any) -> Callable:
    """As of `Compiled`."""
    program = self._compiled(name, **options)

    def predict(variables, batch):
      if not self.seconds:
        # The first call compiles.
        self._run(program, variables, batch)
      started = self._clock()
      outputs = self._run(program, variables, batch)
      self.seconds.append(self._clock() - started)
      return outputs

    return predict

  def _run(self, program, variables, batch):
    import jax

    # A program returns before it is done.
    return jax.block_until_ready(program(variables, batch))

  def ms_per_image(self, batch_size: int) -> float:
    """Milliseconds per image of the fastest batch."""
    # Whatever else the machine does only adds to a time.
    return _MS_A_SECOND * min(self.seconds) / batch_size


def count_params(variables: Mapping[str, Any]) -> int:
  """The parameters of a family's variables, those of a frozen part included."""
  import jax

  frozen = variables["frozen"] or {}
  parts = (variables["params"], frozen.get("params", {}))
  return sum(leaf.size for leaf in jax.tree.leaves(parts))


def run(
    checkpoint: str,
    name: str,
    changes: Mapping[str, Any],
    out: pathlib.Path,
) -> None:
  """What the command does; see the file's docstring.

  Raises:
    ConfigError: no such run or evaluator, one of another prediction, an unknown
      option, or an evaluator that cannot score.
  """
  import jax

  from trainers import evaluation, scoring
  from trainers.families import open_checkpoint
  from trainers.families.compiled import Compiled
  from uvim.learn import sharding
  config = scoring.config_of(checkpoint)
  block, = scoring.choose(config, [name])
  pred = changes.get("pred", block.pred)
  if pred not in _PREDICTORS:
    allowed = " or ".join(map(repr, _PREDICTORS))
    raise ConfigError(f"--checkpoint {checkpoint} --evaluator {name}: it must "
                      f"have pred {allowed}, not {pred!r}.")
  family, variables = open_checkpoint(checkpoint, config)
  block = scoring.changed(block, changes, list(family.options(pred)))
  mesh = sharding.make_mesh((("data", -1),))
  timed = Timed(Compiled(family))
  item = evaluation.make_evaluation(
      block, family, timed, mesh, pp_modules=config.pp_modules)
  variables = jax.device_put(variables, sharding.replicated(mesh))
  scores = item.run(variables)
  if scores.problem:
    raise ConfigError(f"{name} could not score: {scores.problem}")
  milliseconds = timed.ms_per_image(block.batch_size)
  figures = {
      **scores.metrics,
      TIME: milliseconds,
      RATE: _MS_A_SECOND / milliseconds,
      SIZE: count_params(variables),
  }
  # Last: it says that all is there.
  files.write_json(
      runs.measured_file(out, runs.SAMPLING), figures, indent=1)


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  parser = app.make_parser("tools.sweeps.sampling", __doc__)
  add = parser.add_argument
  add("--checkpoint", required=True, help="workdir of a run")
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
