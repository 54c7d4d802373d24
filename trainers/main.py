"""The command line of all trainers."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from trainers import config_help
from uvim.cli import app
from uvim.registry import ConfigError


def run(kind: str, description: str) -> None:
  """Parses the command line, trains, and leaves with the exit code."""
  sys.exit(main(kind, description))


def main(kind: str, description: str, argv: Sequence[str] | None = None,
         **services: Any) -> int:
  """What `run` does, for any `argv` without the program's name.

  Args:
    kind: the family that this command trains.
    description: what the command does, for `--help`.
    argv: `--config`, `--workdir`, `--config.field=value`…, and for several
      processes what `trainers.cluster.join` takes.
    **services: `store` and `make_recorder` of `trainers.loop.train`.

  Returns:
    The exit code, see `uvim.cli.app`.
  """
  parser = _make_parser(kind, description)
  parser.epilog = config_help.epilog(argv)

  def command(args):
    _train(kind, args, services)

  return app.run(parser, command, argv, takes_overrides=True)


def _make_parser(kind: str, description: str) -> argparse.ArgumentParser:
  parser = app.make_parser(f"trainers.{kind}", description)
  add = parser.add_argument
  add("--config", required=True, metavar="FILE[:ARGUMENT]",
      help="configs/NAME.py[:argument,key=value…]; --config.FIELD=VALUE "
      "changes one of its fields")
  add("--workdir", required=True,
      help="where checkpoints, metrics and images go")
  add("--wandb", metavar="PROJECT",
      help="project of Weights & Biases to report to as well")
  group = parser.add_argument_group("several processes")
  add = group.add_argument
  add("--coordinator", metavar="HOST:PORT", help="of process 0")
  add("--num_processes", type=int, help="how many there are")
  add("--process_id", type=int, help="which this one is")
  add("--distributed", action="store_true",
      help="JAX finds the other three by itself")
  return parser


def _train(kind: str, args: argparse.Namespace,
           services: dict[str, Any]) -> None:
  # Imported late: a typo on the command line need not wait for JAX.
  from trainers import cluster, config_file, loop
  from trainers.report import wandb_board
  from uvim.config import resolve
  from uvim.learn import devices
  config = resolve(config_file.load_config(args.config, args.overrides))
  # For example a config of stage I with the trainer of stage II.
  if config.kind != kind:
    raise ConfigError(
        f"--config {args.config} is of kind {config.kind!r}; train it with "
        f"python -m trainers.{config.kind}.")
  config_file.quiet_absl()
  logging.getLogger("uvim").setLevel(logging.WARNING)
  # Before anything asks JAX for devices.
  cluster.join(args.coordinator, args.num_processes, args.process_id,
               args.distributed)
  devices.add_spare()
  if args.wandb:
    # Now, and not after the data and the model are made.
    wandb_board.check()
  loop.train(config, args.workdir, wandb=args.wandb, **services)
