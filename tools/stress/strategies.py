"""What the fuzz draws: text, bytes and JSON that are nearly right.

Wholly random input is refused by the first check. So each case begins with a
sound one, and a few parts of it are replaced.
"""

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_MAX_EDITS = 4
# What may take the place of a word or a number in a text.
LITERALS = (
    "0", "-1", "1", "3", "7.5", "-0.0", "1e400", "99999999999999999999",
    "2147483648", "True", "None", "''", '"image"', '"nope"', "[]", "()", "{}",
    "(1, 2)", "(0, 0)", "[3, -1]", "(1, 2, 3)", "1j", "b'x'", "{'a': 1}",
    "'labels'", "x", "open('f')", "...", "'a|b'", "9" * 5000, "(" * 300)
# What may take the place of a size in a header, among other things.
_SIZES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0", b"\x7f\xff\xff\xff")
_HEADER_BYTES = 64  # Most of the meaning of a file lies there.
# What may take the place of a value in JSON.
_VALUES = (
    None, True, False, 0, 1, -1, 255, 2**24, 2**31, 2**53 + 1, 2**63, 2**64,
    10**40, 0.0, 0.5, -0.5, 1e308, math.nan, math.inf, "", "0", "1", "true",
    "a", "../a", "/a", "\0", "é", "e\u0301", "x" * 300, [], [[]], [None], {},
    {"id": 1}, [1, 2, 3, 4])


# Draws a number of edits.
_num_edits = st.integers(1, _MAX_EDITS)
# Draws True in one of four cases.
_seldom = st.sampled_from((True, False, False, False))


@st.composite
def edited_text(draw, seeds: Sequence[str]) -> str:
  """One of the seeds, with some spans replaced."""
  literal = st.sampled_from(LITERALS)
  mark = st.sampled_from('|(),"\'=[]{}. -_\n')
  any_text = st.text(max_size=4)
  nothing = st.just("")
  piece = st.one_of(literal, mark, any_text, nothing)
  text = draw(st.sampled_from(seeds))
  for _ in range(draw(_num_edits)):
    text = draw(_with_a_replaced_span(text, piece, len(text)))
  return text


@st.composite
def edited_bytes(draw, seeds: Sequence[bytes]) -> bytes:
  """One of the seeds, with some spans replaced or the end cut off."""
  size = st.sampled_from(_SIZES)
  any_bytes = st.binary(min_size=1, max_size=4)
  nothing = st.just(b"")
  piece = st.one_of(size, any_bytes, nothing)
  content = draw(st.sampled_from(seeds))
  for _ in range(draw(_num_edits)):
    stop = len(content)
    is_in_header = draw(st.booleans())
    if is_in_header:
      stop = min(stop, _HEADER_BYTES)
    content = draw(_with_a_replaced_span(content, piece, stop))
  if draw(_seldom):
    end = draw(st.integers(0, len(content)))
    content = content[:end]
  return content


@st.composite
def _with_a_replaced_span(draw, content, piece, stop: int):
  """Text or bytes in which a piece takes the place of up to eight units.

  Args:
    draw: given by hypothesis.
    content: what is edited.
    piece: draws what comes in.
    stop: the span begins here at the latest.
  """
  start = draw(st.integers(0, stop))
  length = draw(st.integers(0, 8))
  before = content[:start]
  after = content[start + length:]
  return before + draw(piece) + after


def json_values() -> st.SearchStrategy[Any]:
  """Any JSON: mostly a value that is odd somewhere, at times a small tree."""
  leaf = st.sampled_from(_VALUES)

  def list_or_object(child):
    key = st.sampled_from(("id", "step", "a"))
    some = st.lists(child, max_size=3)
    named = st.dictionaries(key, child, max_size=3)
    return st.one_of(some, named)

  tree = st.recursive(leaf, list_or_object, max_leaves=5)
  value = st.one_of(leaf, leaf, tree)
  # Copies: a later edit may go into a list that was put in place.
  return value.map(copy.deepcopy)


@st.composite
def edited_json(draw, documents: Sequence[Any]) -> Any:
  """One of the documents, with some values replaced, removed or repeated."""
  document = draw(st.sampled_from(documents))
  document = copy.deepcopy(document)
  for _ in range(draw(_num_edits)):
    draw(_edit_somewhere(document))
  return document


@st.composite
def _edit_somewhere(draw, node: Any) -> None:
  """Goes down into a list or dict at random and edits the place it reaches."""
  # An earlier edit may have emptied it, or put a number in its place.
  if not _has_children(node):
    return
  key = draw(st.sampled_from(_keys(node)))
  child = node[key]
  stays = draw(_seldom)
  if _has_children(child) and not stays:
    draw(_edit_somewhere(child))
    return
  action = draw(st.sampled_from(("replace", "replace", "remove", "repeat")))
  if action == "replace":
    node[key] = draw(json_values())
  elif action == "remove":
    del node[key]
  elif isinstance(node, list):
    node.append(child)


def _has_children(node: Any) -> bool:
  return isinstance(node, (dict, list)) and len(node) > 0


def _keys(node: dict | list) -> list[Any]:
  """What `node[key]` takes."""
  if isinstance(node, dict):
    return list(node)
  return list(range(len(node)))


@st.composite
def encoded_json(draw, documents: Sequence[Any]) -> bytes:
  """The bytes of edited JSON, in one of the encodings that people use."""
  document = draw(edited_json(documents))
  text = json.dumps(document, ensure_ascii=False)
  encoding = draw(st.sampled_from(
      ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
  content = text.encode(encoding, errors="replace")
  if draw(_seldom):
    content = draw(edited_bytes([content]))
  return content
