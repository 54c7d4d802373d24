"""Config files and what the command line changes in them.

The only file that touches absl, in whose flags ml_collections reads a config.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence

import absl.logging
import ml_collections
from absl import flags
from ml_collections import config_flags

from uvim.registry import ConfigError, unknown

Config = ml_collections.ConfigDict


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
  """The config of a file, after the overrides.

  Args:
    path: 'configs/NAME.py[:argument,key=value…]'.
    overrides: '--config.field=value' each.

  Raises:
    ConfigError: no such file, a file that raises, an override of a field that
      is not there or of another type.
  """
  try:
    # Without the overrides first: ml_collections names an unknown field by its
    # last key only.
    plain_config = _parse(path, ())
    _check_overrides(plain_config, overrides)
    return _parse(path, overrides)
  except ConfigError:
    raise
  except Exception as e:  # Whatever a config file or an override raises.
    raise ConfigError(_one_line(e)) from e


def quiet_absl() -> None:
  """Silences libraries that report every call through absl's logging."""
  absl.logging.set_verbosity(absl.logging.ERROR)


def _parse(path: str, overrides: Sequence[str]) -> Config:
  """The config of a file as ml_collections reads it."""
  # Flags of its own, so that it may be called again and again.
  values = flags.FlagValues()
  argv = ["uvim", f"--config={path}", *overrides]
  flag = config_flags.DEFINE_config_file(
      "config", None, "", lock_config=True, flag_values=values, sys_argv=argv)
  try:
    with _no_bytecode():
      values(argv)
      flag.value.keys  # noqa: B018
  except OSError as e:  # ml_collections reports an absent file at first use.
    raise ConfigError(f"--config {path}: there is no such file.") from e
  return flag.value


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
  """Keeps Python from storing the bytecode of what it imports here.

  Python takes stored bytecode for up to date if the file has the same size and
  the same second of change. A config that was edited twice within a second
  would then be read as it was before.
  """
  before = sys.dont_write_bytecode
  sys.dont_write_bytecode = True
  try:
    yield
  finally:
    sys.dont_write_bytecode = before


def _check_overrides(config, overrides: Sequence[str]) -> None:
  """Raises a ConfigError for `--config.a.b=…` if the config has no a.b."""
  for override in overrides:
    path, _, _ = override.partition("=")
    # '--config.model.width' → ['model', 'width'].
    _, *keys = path.split(".")
    node = config
    seen = "config"
    for key in keys:
      # An element of a tuple: config.evals[0].
      key, _, _ = key.partition("[")
      # A plain value has no fields.
      known = list(node.keys()) if hasattr(node, "keys") else []
      if key not in known:
        raise unknown(
            f"key '{seen}.{key}' in {override}: there is no", key, known)
      node = node[key]
      seen = f"{seen}.{key}"


def _one_line(error: Exception) -> str:
  """Its message. ml_collections and absl put a whole traceback into some."""
  text = str(error).strip() or type(error).__name__
  if "Traceback (most recent call last)" in text:
    # The last line of a traceback is "ErrorType: message".
    last_line = text.splitlines()[-1]
    _, _, text = last_line.partition(": ")
  return text
