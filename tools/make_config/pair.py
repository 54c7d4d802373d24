"""Writes a pair, and says how to go on."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import shlex

from tools.make_config import cost, plan, survey, text
from tools.make_config.cost import duration
from tools.make_config.plan import Plan
from uvim import files
from uvim.registry import ConfigError

# A warning says it if more of the things are smaller than a patch.
_MANY_SMALL = 0.5


@dataclasses.dataclass(frozen=True)
class Target:
  """Where a pair is written.

  Attributes:
    folder: below the current folder, so that stage II can import stage I.
    name: how the names of the files end.
    option: the command-line option that gave the folder, for messages.
  """
  folder: pathlib.Path
  name: str
  option: str = "--out"

  @property
  def stage_i(self) -> pathlib.Path:
    return self.folder / f"vqvae_{self.name}.py"

  @property
  def stage_ii(self) -> pathlib.Path:
    return self.folder / f"lm_{self.name}.py"

  @property
  def package(self) -> str:
    """The folder as Python imports it."""
    return ".".join(self.folder.parts)


def make_target(out: str | os.PathLike, dataset: str, option: str = "--out"
                ) -> Target:
  """The files of a pair.

  Args:
    out: the folder.
    dataset: TFDS name, as 'mydata/config:1.0.0'.
    option: that gave the folder.

  Raises:
    ConfigError: a folder that Python cannot import from.
  """
  here = pathlib.Path.cwd()
  path = pathlib.Path(os.path.normpath(here / out))
  rule = ("; allowed: a folder below the current one, of letters, digits and "
          "_, such as 'my', so that stage II can import stage I.")
  if not path.is_relative_to(here) or path == here:
    raise ConfigError(f"{option}: {os.fspath(out)!r}{rule}")
  folder = path.relative_to(here)
  if not all(part.isidentifier() for part in folder.parts):
    raise ConfigError(f"{option}: {os.fspath(out)!r}{rule}")
  _check_package(folder, option)
  name, _, _ = dataset.partition(":")
  # Such as coco/2017_panoptic; Python imports no slash.
  return Target(folder, re.sub(r"\W", "_", name), option)


def _check_package(folder: pathlib.Path, option: str) -> None:
  """Raises a ConfigError if Python knows a package of this name elsewhere."""
  name = folder.parts[0]
  spec = importlib.util.find_spec(name)
  # A folder without __init__.py comes after any package, wherever that lies.
  if spec is None or spec.origin is None:
    return
  if pathlib.Path(spec.origin).parent.resolve() != pathlib.Path(name).resolve():
    raise ConfigError(f"{option}: {name!r} is the name of a Python package; "
                      "choose another folder, such as 'my'.")


def check_absent(target: Target, *, remedy: str) -> None:
  """Raises a ConfigError if a file of the pair is there.

  Args:
    target: the files.
    remedy: a sentence that says what to do.
  """
  for path in (target.stage_i, target.stage_ii):
    if path.exists():
      raise ConfigError(f"{target.option}: {str(path)!r} is there. {remedy}")


def make_pair(dataset: str, data_dir: str | None, target: Target,
              minutes: float) -> None:
  """Looks at a data set, writes its pair, and prints the next commands.

  Args:
    dataset: a TFDS name that is prepared.
    data_dir: TFDS's root folder; None: the default.
    target: the files. Files that are there are replaced.
    minutes: for both stages on this machine.

  Raises:
    ConfigError: see `survey.survey` and `plan.make_plan`.
  """
  if data_dir is not None:
    # A run may start elsewhere.
    data_dir = os.path.abspath(data_dir)
  facts = survey.survey(dataset, data_dir)
  chosen = plan.make_plan(facts, cost.measure_machine(), minutes)
  write(chosen, target)
  for line in [*describe(chosen), *next_commands(chosen, target)]:
    print(line)


def write(chosen: Plan, target: Target) -> None:
  """Writes both files."""
  one = text.stage_i(chosen, target.stage_ii.name)
  two = text.stage_ii(
      chosen, target.stage_i.name, target.package, target.stage_i.stem)
  files.write_text(target.stage_i, one)
  files.write_text(target.stage_ii, two)


def describe(chosen: Plan) -> list[str]:
  """Lines that say what was found and chosen, and what to worry about."""
  height, width = chosen.label_size
  rows, columns = chosen.grid
  splits = chosen.facts.splits
  lines = [
      f"{chosen.facts.dataset}: {text.TITLES[chosen.task]}, "
      f"{splits.num_train:,} images to train on ({splits.train}) and "
      f"{splits.num_held_out:,} to score ({splits.held_out})",
      f"Labels of {height} × {width} pixels, {rows} × {columns} patches, a "
      "word for each",
  ]
  if chosen.small_things > _MANY_SMALL:
    lines.append(
        f"warning: {100 * chosen.small_things:.0f} % of the things are smaller "
        f"than a patch of {chosen.patch} × {chosen.patch} pixels of these, and "
        "will hardly be found. Cut the images into parts, or raise LABEL_SIZE "
        "and CODE_GRID.")
  total = chosen.stage_i.minutes + chosen.stage_ii.minutes
  if total > 1.2 * chosen.minutes:
    lines.append(
        f"warning: {chosen.minutes:g} minutes are too few on this machine; the "
        f"shortest runs that teach a little take {duration(total)}.")
  return lines


def next_commands(chosen: Plan, target: Target) -> list[str]:
  """The commands to type next, with their durations."""
  workdir = f"workdirs/{target.name}"
  stage_i = shlex.quote(str(target.stage_i))
  stage_ii = shlex.quote(str(target.stage_ii))
  return [
      f"Wrote {target.stage_i} and {target.stage_ii}. Next:",
      "",
      f"# {duration(chosen.stage_i.minutes)} on this machine "
      f"({chosen.machine.name}), if it does nothing else",
      f"python -m trainers.vqvae --config {stage_i} \\",
      f"    --workdir {workdir}/stage1",
      f"# {duration(chosen.stage_ii.minutes)}",
      f"python -m trainers.lm --config {stage_ii} \\",
      f"    --config.oracle.model_init={workdir}/stage1 \\",
      f"    --workdir {workdir}/stage2",
      "# about 1 minute",
      f"python -m tools.predict --checkpoint {workdir}/stage2 --out OUT "
      "IMAGES",
  ]
