"""The command line of both trainers: the only file that touches absl."""

import errno
import logging
import os
import sys

import absl.logging
from absl import flags
from ml_collections import config_flags

from uvim.registry import ConfigError, unknown

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the same command, later, goes on.

# What a full, vanished or forbidden disk says. Others are our own mistakes.
DISK_ERRORS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
    errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOENT})


def run(make_stage, description: str) -> None:
  """Parses the command line, trains, and leaves with the exit code."""
  sys.exit(command(make_stage, description, sys.argv))


def quiet_tensorflow() -> None:
  """Before its import: no word on oneDNN, whose kernels we do not use."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def command(make_stage, description: str, argv) -> int:
  """What `run` does, for any `argv`; flags of its own, so it may be repeated.

  Args:
    make_stage: TrainConfig → stage, see `trainers.loop.Stage`.
    description: what the command does, for `--help` and mistakes.
    argv: program name, `--config`, `--workdir`, `--config.field=value`…, and
      for several processes what `trainers.cluster.join` takes.

  Returns:
    The exit code: 0, EXIT_BAD_INPUT, EXIT_DIVERGED or EXIT_PREEMPTED.
  """
  quiet_tensorflow()
  if {"--help", "-h", "-help"} & set(argv[1:]):
    print(description)
    return 0
  try:
    config, workdir, processes, wandb = _parse(argv, description)
  except Exception as e:  # Whatever a config file or an override raises.
    return _failed(_one_line(e))
  return _train(make_stage, config, workdir, processes, wandb)


def _parse(argv, description):
  """(ConfigDict, workdir, arguments of `cluster.join`, W&B project)."""
  check_overrides(argv)
  values = flags.FlagValues()
  config_flag = config_flags.DEFINE_config_file(
      "config", None, "configs/NAME.py[:argument,key=value…]",
      lock_config=True, flag_values=values, sys_argv=argv)
  workdir_flag = flags.DEFINE_string(
      "workdir", None, "where checkpoints, metrics and pictures go",
      flag_values=values)
  processes = _define_processes(values)
  wandb_flag = flags.DEFINE_string(
      "wandb", None, "project of Weights & Biases to report to as well",
      flag_values=values)
  rest = values(argv)
  if len(rest) > 1:
    raise ConfigError(
        f"Unexpected argument {rest[1]!r}; use --config.field=value.")
  for flag in (config_flag, workdir_flag):
    if flag.value is None:
      raise ConfigError(f"--{flag.name} is missing. {description}")
  return (config_flag.value, workdir_flag.value,
          {name: flag.value for name, flag in processes.items()},
          wandb_flag.value)


def _define_processes(values):
  """The flags of a run of several processes, by name."""
  return {
      "coordinator": flags.DEFINE_string(
          "coordinator", None, "host:port of process 0", flag_values=values),
      "num_processes": flags.DEFINE_integer(
          "num_processes", None, "how many there are", flag_values=values),
      "process_id": flags.DEFINE_integer(
          "process_id", None, "which this one is", flag_values=values),
      "distributed": flags.DEFINE_boolean(
          "distributed", False, "JAX finds the other three out",
          flag_values=values)}


def check_overrides(argv) -> None:
  """Raises a ConfigError for `--config.a.b=…` if the config has no a.b.

  Or if there is no config file. ml_collections would only say "'b'".
  """
  values = flags.FlagValues()
  own = [a for i, a in enumerate(argv)
         if i == 0 or a.startswith(("--config=", "-config="))
         or argv[i - 1] in ("--config", "-config")
         or a in ("--config", "-config")]
  config_flags.DEFINE_config_file(
      "config", flag_values=values, sys_argv=own)
  values(own)
  flag = values["config"]
  if flag.value is None:
    return
  try:
    flag.value.keys  # noqa: B018
  except OSError as e:  # ml_collections reports an absent file at first use.
    raise ConfigError(
        f"--config {flag.config_filename}: there is no such file.") from e
  for arg in argv[1:]:
    if not arg.startswith("--config."):
      continue
    node, seen = flag.value, "config"
    for key in arg.partition("=")[0].split(".")[1:]:
      key = key.partition("[")[0]
      if not hasattr(node, "keys") or key not in node:
        raise unknown(f"key '{seen}.{key}' in {arg}: there is no", key,
                      getattr(node, "keys", list)())
      node, seen = node[key], f"{seen}.{key}"


def _train(make_stage, config, workdir, processes, wandb) -> int:
  """Trains; turns the errors a person can mend into one line."""
  # Libraries whisper through absl at every turn; our own warnings stay.
  absl.logging.set_verbosity(absl.logging.ERROR)
  logging.getLogger("uvim").setLevel(logging.WARNING)
  # Imported late: a typo on the command line need not wait for TensorFlow.
  from trainers import cluster, loop, preemption
  from trainers.report import wandb_board
  from uvim.config import resolve
  try:
    config = resolve(config)
    cluster.join(**processes)
    if wandb:
      wandb_board.check()
    loop.train(make_stage, config, workdir, wandb=wandb)
  except ConfigError as e:
    return _failed(str(e))
  except loop.Diverged as e:
    return _failed(str(e), EXIT_DIVERGED)
  except preemption.Preempted as e:
    print(e, file=sys.stderr)
    return EXIT_PREEMPTED
  except OSError as e:
    if e.errno not in DISK_ERRORS:
      raise
    return _failed(f"{e}. Checkpoints that --workdir {workdir} had before are "
                   "unchanged.")
  return 0


def _one_line(error: Exception) -> str:
  """Its message. ml_collections and absl put a whole traceback into some."""
  text = str(error).strip() or type(error).__name__
  if "Traceback (most recent call last)" in text:
    return text.splitlines()[-1].partition(": ")[2]
  return text


def _failed(message: str, code: int = EXIT_BAD_INPUT) -> int:
  print(f"error: {message}", file=sys.stderr)
  return code
