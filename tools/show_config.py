"""Prints a config as a run sees it, and where each value comes from.

  python -m tools.show_config configs/NAME.py[:ARGUMENT] [--config.FIELD=VALUE]

It prints one line for each field, also for those that nobody names:

  config file  config.batch_size = 512

The first words tell where the value comes from: the config file, the argument
behind the colon, an override, or the default. In a config file one field can
follow another, as the vocabulary follows the size of the codebook. If an
override changes the one, both lines say "override". docs/configs.md says what
the fields mean.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from uvim.cli import app
from uvim.config import OracleConfig, TrainConfig, resolve
from uvim.registry import ConfigError

FILE = "config file"
ARGUMENT = "argument"
OVERRIDE = "override"
DEFAULT = "default"

# Values by path, such as "model.width".
Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setting:
  """One field of a config.

  Attributes:
    path: such as "model.width".
    value: what a run sees.
    origin: FILE, ARGUMENT, OVERRIDE or DEFAULT.
  """
  path: str
  value: Any
  origin: str


def main(argv=None) -> int:
  parser = app.make_parser("tools.show_config", __doc__)
  parser.add_argument("config", metavar="FILE[:ARGUMENT]",
                      help="configs/NAME.py[:argument,key=value…]")
  return app.run(parser, command, argv, takes_overrides=True)


def command(args: argparse.Namespace) -> None:
  """Prints the family, the length and all fields.

  Raises:
    ConfigError: the config is not one that a run would take.
  """
  from trainers import config_file
  config = resolve(config_file.load_config(args.config, args.overrides))
  print(f"family       {config.kind} (python -m trainers.{config.kind})")
  print(f"steps        {steps(config)}")
  for setting in settings(config, args.config, args.overrides):
    print(f"{setting.origin:12} config.{setting.path} = {setting.value!r}")


def steps(config: TrainConfig) -> str:
  """The length of the run, as far as it is known without the data."""
  # Steps need no data set; epochs are multiplied by its size.
  if config.total_steps:
    return str(config.num_steps(num_examples=0))
  return (f"{config.num_epochs} epochs × examples of {config.train_split!r} / "
          f"{config.batch_size}")


def settings(config: TrainConfig, path: str,
             overrides: Sequence[str]) -> list[Setting]:
  """All fields of a config in the order of docs/configs.md.

  Args:
    config: what `path` and `overrides` resolve to.
    path: 'configs/NAME.py[:argument,key=value…]'.
    overrides: '--config.field=value' each.
  """
  history = read_history(path, overrides)
  out = []
  for name, value in all_values(config).items():
    out.append(Setting(name, value, history.origin(name)))
  return out


def all_values(config: TrainConfig) -> Values:
  """The value of every field by path, defaults of the models included.

  The blocks of evaluators stand under their names, as in a config file.
  """
  values = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.name == "evals":
      # The blocks follow below, under their names.
      values["evals"] = [(block.name, block.type) for block in value]
    elif field.name == "model":
      _put_model(values, "model", config.model_name, value)
    elif isinstance(value, OracleConfig):
      _put_oracle(values, value)
    else:
      _put(values, field.name, value)
  for block in config.evals:
    for field in dataclasses.fields(block):
      # These two stand in `evals`.
      if field.name not in ("name", "type"):
        _put(values, f"{block.name}.{field.name}", getattr(block, field.name))
  return values


def _put_oracle(values: Values, oracle: OracleConfig) -> None:
  for field in dataclasses.fields(oracle):
    value = getattr(oracle, field.name)
    path = f"oracle.{field.name}"
    if field.name == "model":
      _put_model(values, path, oracle.model_name, value)
    else:
      _put(values, path, value)


def _put_model(values: Values, path: str, model_name: str,
               given: Mapping[str, Any]) -> None:
  """Adds the fields of a model, and the defaults of those not given."""
  from uvim.models import known_fields
  complete = dict(given)
  for name, field in known_fields(model_name, given, f"config.{path}").items():
    # A value that the config gives stays.
    if not field.is_required:
      complete.setdefault(name, field.default)
  _put(values, path, complete)


def _put(values: Values, path: str, value: Any) -> None:
  """Adds a value, or all values inside a mapping."""
  if not isinstance(value, Mapping) or not value:
    values[path] = value
    return
  for name, inner in value.items():
    _put(values, f"{path}.{name}", inner)


# ── Where values come from ──────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class History:
  """What a config names by path, before and after it is changed.

  Attributes:
    final: with argument and overrides.
    before_overrides: with the argument alone.
    before_argument: the file alone.
    overridden: the paths of the overrides.
  """
  final: Values
  before_overrides: Values
  before_argument: Values
  overridden: list[str]

  def origin(self, path: str) -> str:
    """FILE, ARGUMENT, OVERRIDE or DEFAULT."""
    # An override of `model` covers model.width too. The dots keep `lr` from
    # covering `lr_mults`.
    for outer in self.overridden:
      if f"{path}.".startswith(f"{outer}."):
        return OVERRIDE
    # No file names it, so the value comes from the code.
    if path not in self.final:
      return DEFAULT
    # References follow what an override or the argument changes elsewhere.
    if self._has_changed_since(self.before_overrides, path):
      return OVERRIDE
    if self._has_changed_since(self.before_argument, path):
      return ARGUMENT
    return FILE

  def _has_changed_since(self, before: Values, path: str) -> bool:
    return path not in before or self.final[path] != before[path]


def read_history(path: str, overrides: Sequence[str]) -> History:
  """Reads a config file with and without its argument and the overrides."""
  # The same file is read up to three times. Where a value changes from one to
  # the next tells where it comes from.
  file, _, argument = path.partition(":")
  before_overrides = _read(path, ())
  before_argument = before_overrides
  if argument:
    try:
      before_argument = _read(file, ())
    except ConfigError:
      # The file needs its argument, so all its values come from there.
      before_argument = {}
  return History(_read(path, overrides), before_overrides, before_argument,
                 [_path_of(override) for override in overrides])


def _read(path: str, overrides: Sequence[str]) -> Values:
  """What a config file and overrides name, by path."""
  from trainers import config_file
  config = config_file.load_config(path, overrides)
  # References become the values that they point to.
  plain = config.copy_and_resolve_references().to_dict()
  values = {}
  for name, value in plain.items():
    _put(values, name, value)
  return values


def _path_of(override: str) -> str:
  """'--config.evals[0]=…' as "evals"."""
  name = override.partition("=")[0].removeprefix("--config.")
  return name.partition("[")[0]


if __name__ == "__main__":
  sys.exit(main())
