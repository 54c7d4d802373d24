"""The files of a folder of fixtures, and how they belong together.

A fixture begins with one file whose name tells its kind, such as
`stage1_depth.json`. Its other files are `.npz` whose names go on from there:
`stage1_depth_params.npz` is its part 'params'.
"""

import dataclasses
import fnmatch
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tools.parity import common
from tools.parity.common import Quantity
from uvim.registry import ConfigError

_SUFFIXES = (".npz", ".json", ".txt")
# What a model is run on, of the parts of a fixture of either stage.
PARAMS = "params"


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of fixture.

  Attributes:
    pattern: what the name of its first file looks like; `*` is any text.
    compare: gives the quantities of a fixture.
  """
  pattern: str
  compare: "Callable[[Fixture], Iterable[Quantity]]"


@dataclasses.dataclass
class Fixture:
  """Files that belong together.

  Attributes:
    path: the one that begins it.
    kind: what it is of.
    parts: the others, by what follows the name of the first and '_'.
  """
  path: pathlib.Path
  kind: Kind
  parts: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """The name of its first file, without suffix."""
    return self.path.stem

  def read_meta(self) -> dict[str, Any]:
    """What its json says."""
    return json.loads(self.path.read_text())

  def read_part(self, part: str) -> dict[str, np.ndarray]:
    """The arrays of a part that must be there."""
    if part not in self.parts:
      raise ConfigError(f"{self.name}_{part}.npz is missing.")
    return read_arrays(self.parts[part])

  def other_parts(self, part: str) -> dict[str, pathlib.Path]:
    """All parts but one."""
    return {name: path for name, path in self.parts.items() if name != part}


def find(folder: pathlib.Path, kinds: Sequence[Kind]
         ) -> tuple[list[Fixture], list[pathlib.Path]]:
  """The fixtures of a folder, and the data files that belong to none."""
  files = sorted(path for path in folder.iterdir()
                 if path.suffix in _SUFFIXES)
  fixtures = {}
  for path in files:
    # The json of the same name, which comes first, begins the fixture.
    if path.suffix == ".npz" and path.with_suffix(".json") in fixtures:
      continue
    for kind in kinds:
      if fnmatch.fnmatchcase(path.name, kind.pattern):
        fixtures[path] = Fixture(path, kind)
  others = []
  for path in files:
    if path in fixtures:
      continue
    owner = _find_owner(path, fixtures.values())
    if owner is None:
      others.append(path)
    else:
      part = path.stem.removeprefix(owner.name).removeprefix("_")
      owner.parts[part] = path
  return list(fixtures.values()), others


def _find_owner(path: pathlib.Path,
                fixtures: Iterable[Fixture]) -> Fixture | None:
  """The fixture that a file is a part of, if there is one."""
  owners = [fixture for fixture in fixtures if _is_part(path, fixture)]
  # The longest name: stage1_a_b_out is of stage1_a_b, not of stage1_a.
  return max(owners, key=lambda fixture: len(fixture.name), default=None)


def _is_part(path: pathlib.Path, fixture: Fixture) -> bool:
  suffixes = (fixture.path.suffix, path.suffix)
  if suffixes == (".npz", ".json"):
    # What the arrays of a fixture without parts are.
    return path.stem == fixture.name
  if suffixes != (".json", ".npz"):
    return False
  return (path.stem == fixture.name
          or path.stem.startswith(f"{fixture.name}_"))


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All arrays of an .npz."""
  with np.load(path) as file:
    return dict(file)


def compare_unknown_part(path: pathlib.Path) -> Iterator[Quantity]:
  """Every array of a file whose meaning this tool does not know."""
  for name, value in read_arrays(path).items():
    yield Quantity(f"{path.stem}/{name}", None, value, note="unknown file")


def compare_parts(
    fixture: Fixture, inputs_part: str,
    compare_part: Callable[[str, pathlib.Path], Iterable[Quantity]],
) -> Iterator[Quantity]:
  """The quantities of every part but that of the inputs.

  Args:
    fixture: whose parts.
    inputs_part: the part that holds no results.
    compare_part: gives the quantities of a part from its name and file.
  """
  for part, path in fixture.other_parts(inputs_part).items():
    yield from common.guarded(path.stem, compare_part(part, path))
