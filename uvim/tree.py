"""Names the leaves of a tree, and finds the first rule that fits a name.

The name of a leaf joins the keys on its path with '/'. The parameters of a
model therefore have the names of the published checkpoints:
'encoder/encoder_norm/scale'.

Layer 0: jax, numpy and the registry only.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from uvim import registry
from uvim.typing import PyTree


def _name(path: Sequence[Any]) -> str:
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def leaf_names(tree: PyTree) -> list[str]:
  """The names of the leaves, in the order of `jax.tree.leaves(tree)`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [_name(path) for path, _ in leaves]


def flatten(tree: PyTree) -> dict[str, Any]:
  """{name: leaf}. For nested dicts, `unflatten` is the inverse."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts from {'a/b': leaf}.

  Raises:
    ConfigError: one name is both a leaf and a folder of leaves.
  """
  tree = {}
  for name, leaf in flat.items():
    *folders, last = name.split("/")
    node = tree
    for folder in folders:
      # A folder is made when its first leaf comes.
      node = node.setdefault(folder, {})
      if not isinstance(node, dict):
        raise registry.ConfigError(
            f"Name {name!r} lies below {folder!r}, which is an array itself."
        )
    if last in node:
      raise registry.ConfigError(
          f"Name {name!r} is an array and a folder of arrays at once."
      )
    node[last] = leaf
  return tree


def fingerprint(tree: PyTree) -> int:
  """CRC-32 of the names, dtypes, shapes and values of all arrays of a tree."""
  # Checkpoints and code caches store this number, so it must stay the same:
  # the names here are jax's own and not those of `flatten`.
  arrays = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    arrays[jax.tree_util.keystr(path)] = leaf
  crc = 0
  # Sorted: the order of the leaves must not matter.
  for name in sorted(arrays):
    # The view of bytes below needs contiguous memory and at least one axis. (A
    # scalar becomes an array of one number.)
    array = np.ascontiguousarray(jax.device_get(arrays[name]))
    header = f"{name} {array.dtype} {array.shape}"
    # Each call goes on from the number so far.
    crc = zlib.crc32(header.encode(), crc)
    crc = zlib.crc32(array.view(np.uint8), crc)
  return crc


def _compile(pattern: str, what: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except (re.error, TypeError) as error:
    raise registry.ConfigError(
        f"{what}: {pattern!r} is not a regular expression: {error}."
    ) from error


def first_match(
    names: Sequence[str],
    patterns: Sequence[str],
    *,
    what: str,
    must_match: bool = True,
) -> list[int]:
  """For each name, the index of the first pattern that matches all of it.

  Args:
    names: leaf names.
    patterns: regular expressions. They match a whole name or nothing, so
      'encoder.*' does not take 'pos_embedding_encoder' (Appendix D, lr_mults).
    what: the config field the patterns came from, for messages.
    must_match: whether a pattern that fits no name at all is an error. Such a
      pattern is almost always a misspelt name and would change nothing.

  Returns:
    Indices into `patterns`, −1 where none matches; one per name.

  Raises:
    ConfigError: a pattern is no regular expression or, with `must_match`,
      fits no name.
  """
  regexes = [_compile(pattern, what) for pattern in patterns]
  if must_match:
    for regex in regexes:
      _check_that_it_matches(regex, names, what)
  return [_index_of_first_match(regexes, name) for name in names]


def _check_that_it_matches(
    regex: re.Pattern, names: Sequence[str], what: str
) -> None:
  if any(regex.fullmatch(name) for name in names):
    return
  # Most patterns look much like a name, so the nearest name is a good hint.
  closest = registry.nearest(regex.pattern, names)
  hint = ""
  if closest:
    hint = f" The nearest name is {closest!r}."
  raise registry.ConfigError(
      f"{what}: pattern {regex.pattern!r} matches no parameter.{hint} Patterns "
      "match whole names: 'head' needs to be 'head.*'."
  )


def _index_of_first_match(regexes: Sequence[re.Pattern], name: str) -> int:
  for index, regex in enumerate(regexes):
    if regex.fullmatch(name):
      return index
  return -1


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How the arrays that were saved fit those a model wants.

  Attributes:
    matched: names of equal shape and dtype.
    missing: one line for each array that is wanted but not saved.
    unexpected: one line for each array that is saved but not wanted.
    misfits: one line for each array of another shape or dtype.
  """
  matched: Sequence[str]
  missing: Sequence[str]
  unexpected: Sequence[str]
  misfits: Sequence[str]

  @property
  def same(self) -> bool:
    """Whether nothing differs."""
    return not (self.missing or self.unexpected or self.misfits)

  def report(self, limit: int = 5) -> str:
    """Counts, then up to `limit` lines of every kind of difference."""
    text = (
        f"{len(self.matched)} arrays match, {len(self.missing)} missing, "
        f"{len(self.unexpected)} unexpected, {len(self.misfits)} of "
        "another shape or dtype"
    )
    for differences in (self.misfits, self.missing, self.unexpected):
      # A wrong model differs in hundreds of arrays. A few lines tell enough.
      for line in differences[:limit]:
        text += f"\n  {line}"
      num_hidden = len(differences) - limit
      if num_hidden > 0:
        text += f"\n  … and {num_hidden} more"
    return text


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> Comparison:
  """Compares {name: [shape, dtype]} of two trees of arrays."""
  matched = []
  missing = []
  unexpected = []
  misfits = []
  # Names that both have, and names that only one has.
  for name in sorted({*saved, *wanted}):
    saved_text = _spec_text(saved, name)
    wanted_text = _spec_text(wanted, name)
    line = f"{name}: {saved_text} saved, {wanted_text} in this run"
    if saved_text == wanted_text:
      matched.append(name)
    elif name not in saved:
      missing.append(line)
    elif name not in wanted:
      unexpected.append(line)
    else:
      misfits.append(line)
  return Comparison(matched, missing, unexpected, misfits)


def _spec_text(specs: Mapping[str, Any], name: str) -> str:
  """'SHAPE DTYPE' of one array, or 'absent'."""
  if name not in specs:
    return "absent"
  shape, dtype = specs[name]
  return f"{shape} {dtype}"
