"""Runs evaluators on any checkpoint and writes what they found as JSON.

  python -m tools.evaluate --checkpoint W
    [--config configs/NAME.py[:arg] [--config.field=value …]]
    [--evaluator NAME …] [--set KEY=VALUE …] --out F.json

W is a run's workdir, which knows its config; or a .npz or a published name,
which need --config. --evaluator chooses among the config's evaluators (default:
all). --set changes them: a field (type, split, pp, dataset, data_dir,
batch_size, pred), an option of the prediction (temperature, seed, soft_words,
drop_below, num_samples, reduce, bins, mask, …; of Pix2Seq-D num_steps, sampler,
…) or of the evaluator (merge_stuff, crop_top, …), such as --set temperature=1.0
--set "split='validation[:100]'". docs/predicting.md says which fit a score.
What only the workdir names is not used if it could do harm: an address, such as
a data_dir in gs://; a folder to write to (save_dir); a network (features).
"""

import argparse
import ast
import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from uvim import files
from uvim.cli import app
from uvim.registry import ConfigError


def make_parser() -> argparse.ArgumentParser:
  parser = app.make_parser("tools.evaluate", __doc__)
  add = parser.add_argument
  add("--checkpoint", required=True)
  add("--config", help="configs/NAME.py[:argument]; default: the workdir's")
  add("--oracle", help="stage II: its stage I checkpoint")
  add("--evaluator", action="append", help="repeat for several")
  add("--set", dest="changes", action="append", default=[],
      metavar="KEY=VALUE")
  add("--out", required=True, help="the JSON file to write")
  add("--overwrite", action="store_true", help="replace the file")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns the exit code."""
  return app.run(make_parser(), evaluate, argv, takes_overrides=True)


def evaluate(args: argparse.Namespace) -> None:
  """What the command does."""
  out = pathlib.Path(args.out)
  # At once: a pass over a split may take an hour.
  if out.exists() and not args.overwrite:
    raise ConfigError(f"--out {out} is there already; --overwrite replaces it.")
  changes = parse_changes(args.changes)
  # Imported late: a typo on the command line need not wait for JAX.
  from trainers import config_file, scoring
  from uvim.config import resolve
  from uvim.learn import devices
  devices.add_spare()
  config_file.quiet_absl()  # TFDS warns of its own calls.
  if args.config:
    config = resolve(config_file.load_config(args.config, args.overrides))
  # The workdir holds a finished config, which has no file to override.
  elif args.overrides:
    raise ConfigError(f"{args.overrides[0]} needs --config; what --set changes "
                      "needs none.")
  else:
    config = scoring.config_of(args.checkpoint)
    scoring.check_places(args.checkpoint, config, args.evaluator, changes)
  results = scoring.score(
      args.checkpoint, config, names=args.evaluator, changes=changes,
      oracle=args.oracle)
  # The file tells what made the scores, so that they can be made again.
  versions = {name: importlib.metadata.version(name)
              for name in ("jax", "flax", "numpy")}
  try:
    files.write_json(out, {
        "checkpoint": args.checkpoint, "config": config.to_json(),
        "versions": versions, "evaluations": results}, indent=1, default=str)
  except OSError as e:
    raise ConfigError(f"--out {out} cannot be written: {e.strerror}.") from e
  # Only now: what the others have scored is kept.
  problems = [f"{result['name']} could not score: {result['problem']}"
              for result in results if result["problem"]]
  if problems:
    raise ConfigError("; ".join(problems))


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
  """{KEY: value} of what --set says; a value is a literal or a bare word."""
  changes = {}
  for text in texts:
    key, equals, value = text.partition("=")
    if not equals:
      raise ConfigError(f"--set {text}: it must be KEY=VALUE.")
    try:
      # So that temperature=1.0 is a number, and pred=oracle needs no quotes.
      changes[key] = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      changes[key] = value
  return changes


if __name__ == "__main__":
  sys.exit(main())
