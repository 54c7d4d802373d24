"""Leaves of a tree by path name, and first-match rules over those names.

A leaf's name joins the keys on its path with '/', so the parameters of a model
have the names of the published checkpoints: 'encoder/encoder_norm/scale'.

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
  return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def flatten(tree: PyTree) -> dict[str, Any]:
  """{name: leaf}; of nested dicts, `unflatten` is the inverse."""
  return {
      _name(path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


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
      node = node.setdefault(folder, {})
      if not isinstance(node, dict):
        raise registry.ConfigError(
            f"Name {name!r} lies below {folder!r}, which is an array itself.")
    if last in node:
      raise registry.ConfigError(
          f"Name {name!r} is an array and a folder of arrays at once.")
    node[last] = leaf
  return tree


def fingerprint(tree: PyTree) -> int:
  """CRC-32 of the names, dtypes, shapes and values of all arrays of a tree."""
  crc = 0
  # Not the names of `flatten`: files keep this number, so it may not move.
  leaves = [(jax.tree_util.keystr(path), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
  for name, leaf in sorted(leaves, key=lambda x: x[0]):
    array = np.ascontiguousarray(jax.device_get(leaf))
    header = f"{name} {array.dtype} {array.shape}"
    crc = zlib.crc32(array.view(np.uint8), zlib.crc32(header.encode(), crc))
  return crc


def _compile(pattern: str, what: str) -> re.Pattern:
  try:
    return re.compile(pattern)
  except (re.error, TypeError) as e:
    raise registry.ConfigError(
        f"{what}: {pattern!r} is not a regular expression: {e}.") from e


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
    must_match: whether a pattern that fits no name at all is an error; it is
      almost always a misspelt name that would silently change nothing.

  Returns:
    Indices into `patterns`, −1 where none matches; one per name.

  Raises:
    ConfigError: a bad or, with `must_match`, an idle pattern.
  """
  regexes = [_compile(pattern, what) for pattern in patterns]
  for pattern, regex in zip(patterns, regexes, strict=True):
    if must_match and not any(map(regex.fullmatch, names)):
      near = registry.nearest(pattern, names)
      hint = f" The nearest name is {near!r}." if near else ""
      raise registry.ConfigError(
          f"{what}: pattern {pattern!r} matches no parameter.{hint} Patterns "
          "match whole names: 'head' needs to be 'head.*'.")
  return [
      next((i for i, r in enumerate(regexes) if r.fullmatch(name)), -1)
      for name in names
  ]


def make_mask(
    tree: PyTree,
    patterns: Sequence[str],
    *,
    what: str = "mask",
    must_match: bool = True,
) -> PyTree:
  """`first_match` for the leaves of `tree`: the same tree of indices."""
  treedef = jax.tree.structure(tree)
  indices = first_match(
      leaf_names(tree), patterns, what=what, must_match=must_match)
  return jax.tree.unflatten(treedef, indices)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How the arrays that were saved fit those a model wants.

  Attributes:
    matched: names of equal shape and dtype.
    missing: lines of those wanted but not saved.
    unexpected: lines of those saved but not wanted.
    misfits: lines of those of another shape or dtype.
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
    text = (f"{len(self.matched)} arrays match, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.misfits)} of "
            "another shape or dtype")
    for lines in self.misfits, self.missing, self.unexpected:
      text += "".join(f"\n  {line}" for line in lines[:limit])
      if len(lines) > limit:
        text += f"\n  … and {len(lines) - limit} more"
    return text


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> Comparison:
  """Compares {name: [shape, dtype]} of two trees of arrays."""
  matched, missing, unexpected, misfits = [], [], [], []
  for name in sorted({*saved, *wanted}):
    there, here = (
        "{} {}".format(*spec) if spec else "absent"
        for spec in (saved.get(name), wanted.get(name)))
    line = f"{name}: {there} saved, {here} in this run"
    if there == here:
      matched.append(name)
    elif name not in saved:
      missing.append(line)
    elif name not in wanted:
      unexpected.append(line)
    else:
      misfits.append(line)
  return Comparison(matched, missing, unexpected, misfits)
