"""The command line of both trainers: the only file that touches absl."""

import logging
import os
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from uvim.registry import ConfigError, unknown

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3


def run(make_stage, description: str) -> None:
  """Parses `--config` and `--workdir`, trains, and sets the exit code.

  Args:
    make_stage: TrainConfig → stage, see `trainers.loop.Stage`.
    description: what the command does, for `--help`.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  config_flag = config_flags.DEFINE_config_file(
      "config", None, "configs/NAME.py[:argument,key=value…]",
      lock_config=True)
  workdir_flag = flags.DEFINE_string(
      "workdir", None, "where checkpoints, metrics and pictures go")
  app.usage = lambda *args, **kwargs: print(description)

  def parse(argv):
    try:
      check_overrides(argv)
      return flags.FLAGS(argv)
    except Exception as e:  # Whatever a config file or an override raises.
      _leave(str(e) or type(e).__name__)

  def main(argv):
    if len(argv) > 1:
      _leave(f"Unexpected argument {argv[1]!r}; use --config.field=value.")
    for flag in (config_flag, workdir_flag):
      if flag.value is None:
        _leave(f"--{flag.name} is missing. {description}")
    _train(make_stage, config_flag.value, workdir_flag.value)

  app.run(main, flags_parser=parse)


def check_overrides(argv) -> None:
  """Raises a ConfigError for `--config.a.b=…` if the config has no a.b.

  ml_collections would only say "'b'".
  """
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values)
  own = [a for i, a in enumerate(argv)
         if i == 0 or a.startswith(("--config=", "-config="))
         or argv[i - 1] in ("--config", "-config")
         or a in ("--config", "-config")]
  values(own)
  for arg in argv[1:]:
    if not arg.startswith("--config.") or values["config"].value is None:
      continue
    node, seen = values["config"].value, "config"
    for key in arg.partition("=")[0].split(".")[1:]:
      key = key.partition("[")[0]
      if not hasattr(node, "keys") or key not in node:
        raise unknown(f"key '{seen}.{key}' in {arg}: there is no", key,
                      getattr(node, "keys", list)())
      node, seen = node[key], f"{seen}.{key}"


def _train(make_stage, config, workdir) -> None:
  """Trains; turns the errors a person can mend into one line."""
  # Libraries whisper through absl at every turn; our own warnings stay.
  absl.logging.set_verbosity(absl.logging.ERROR)
  logging.getLogger("uvim").setLevel(logging.WARNING)
  # Imported late: a typo on the command line need not wait for TensorFlow.
  from trainers import loop
  from uvim.config import resolve
  try:
    loop.train(make_stage, resolve(config), workdir)
  except ConfigError as e:
    _leave(str(e))
  except loop.Diverged as e:
    _leave(str(e), EXIT_DIVERGED)


def _leave(message: str, code: int = EXIT_BAD_INPUT) -> None:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)
