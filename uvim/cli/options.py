"""Options of a prediction, made from what priors and tasks say of themselves.

The command line is read before the checkpoint is. So every option of every
prior and task is allowed at first; `UViM.predict` refuses those that the model
does not have. A new prior or task brings its options along.
"""

import argparse
import ast
from collections.abc import Mapping
from typing import Any

from uvim import fields
from uvim.fields import Field
from uvim.inference import pix2seq_d, readings
from uvim.priors import PRIORS
from uvim.tasks import TASKS, task_class

# Option → its owner, a prior's style, a task's name or "pix2seq_d" → what is
# known of it. The owner of an option that every model has is "".
Known = Mapping[str, Mapping[str, Field]]


def sampling_options() -> Known:
  """The options of all priors, and of Pix2Seq-D."""
  known = {}
  for style, prior_class in PRIORS.items():
    for name, option in prior_class.options.items():
      known.setdefault(name, {})[style] = option
  for name, option in pix2seq_d.SAMPLING_OPTIONS.items():
    known.setdefault(name, {})[pix2seq_d.Pix2SeqDPredictor.kind] = option
  return known


def reading_options() -> Known:
  """The options of reading an answer, which every model has."""
  return {name: {"": option} for name, option in readings.OPTIONS.items()}


def output_options() -> Known:
  """The options of all tasks."""
  known = {}
  seen = set()
  for task_name in TASKS:
    cls = task_class(task_name)
    # The first name of a class is its own; the others are the released code's.
    if cls in seen:
      continue
    seen.add(cls)
    for name, option in cls.prediction_options().items():
      known.setdefault(name, {})[task_name] = option
  return known


def answer_options() -> Known:
  """The options of everything that comes after the codes are drawn."""
  return {**reading_options(), **output_options()}


def add_options(parser: argparse.ArgumentParser, title: str,
                known: Known) -> None:
  """Adds a group of options; one that is not given is None."""
  group = parser.add_argument_group(title)
  for name, owners in known.items():
    help_text = _help_text(owners)
    if _is_switch(owners):
      # The default is None and not False, so that `given_options` can tell what
      # the user gave.
      group.add_argument(f"--{name}", action="store_true", default=None,
                         help=help_text)
    else:
      group.add_argument(f"--{name}", type=_Reader(name, owners),
                         help=help_text)


def given_options(args: argparse.Namespace, known: Known) -> dict[str, Any]:
  """The options of a group that the user gave, with their values."""
  given = {}
  for name in known:
    value = getattr(args, name)
    if value is not None:
      given[name] = value
  return given


class _Reader:
  """Reads the value of an option; argparse calls it.

  Attributes:
    names: the values that have a name, of all owners.
  """

  def __init__(self, name: str, owners: Mapping[str, Field]):
    self._name = name
    self._owners = owners
    self.names = _names_of(owners)

  def __call__(self, text: str) -> Any:
    # Several priors or tasks may share a name. A value that suits one of them
    # passes; `UViM.predict` checks it against the model's own rule.
    rules = []
    for option in self._owners.values():
      value = _parse(text, option)
      check = option.check
      if check is None or check.fits(value):
        return value
      if check.allowed not in rules:
        rules.append(check.allowed)
    allowed = " or ".join(rules)
    raise argparse.ArgumentTypeError(
        f"{self._name} = {text}; it must be {allowed}")


def _parse(text: str, option: Field) -> Any:
  """The value that a text stands for: a Python literal, or the text itself."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
  # `--temperature 1` means the same number as `--temperature 1.0`.
  if isinstance(option.default, float) and fields.is_integer(value):
    return float(value)
  return value


def _names_of(owners: Mapping[str, Field]) -> list[str]:
  names = []
  for option in owners.values():
    if option.check is not None:
      names += option.check.names
  # Each once, in their order.
  return list(dict.fromkeys(names))


def _is_switch(owners: Mapping[str, Field]) -> bool:
  return all(option.default is False for option in owners.values())


def _help_text(owners: Mapping[str, Field]) -> str:
  texts = []
  for owner, option in owners.items():
    text = f"{owner}: {option.doc}" if owner else option.doc
    if option.check is not None and option.check.names:
      text += f" One of {', '.join(option.check.names)}."
    # A switch is always off by default, so the text does not say it.
    if option.default is not False:
      text += f" Default: {option.default}."
    texts.append(text)
  # argparse takes a percent sign for a placeholder.
  return " ".join(texts).replace("%", "%%")
