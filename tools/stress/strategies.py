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


@st.composite
def edited_text(draw, seeds: Sequence[str]) -> str:
  """One of the seeds, with some spans replaced."""
  pieces = st.one_of(
      st.sampled_from(LITERALS), st.text(max_size=4), st.just(""),
      st.sampled_from('|(),"\'=[]{}. -_\n'))
  text = draw(st.sampled_from(seeds))
  for _ in range(draw(st.integers(1, _MAX_EDITS))):
    text = draw(_with_a_replaced_span(text, pieces, len(text)))
  return text


@st.composite
def edited_bytes(draw, seeds: Sequence[bytes]) -> bytes:
  """One of the seeds, with some spans replaced or the end cut off."""
  pieces = st.one_of(
      st.sampled_from(_SIZES), st.binary(min_size=1, max_size=4), st.just(b""))
  content = draw(st.sampled_from(seeds))
  for _ in range(draw(st.integers(1, _MAX_EDITS))):
    is_in_header = draw(st.booleans())
    stop = len(content)
    if is_in_header:
      stop = min(stop, _HEADER_BYTES)
    content = draw(_with_a_replaced_span(content, pieces, stop))
  if draw(st.integers(0, 3)) == 3:
    content = content[:draw(st.integers(0, len(content)))]
  return content


@st.composite
def _with_a_replaced_span(draw, content, pieces, stop: int):
  """Text or bytes in which a piece takes the place of up to eight units."""
  start = draw(st.integers(0, stop))
  length = draw(st.integers(0, 8))
  return content[:start] + draw(pieces) + content[start + length:]


def json_values() -> st.SearchStrategy[Any]:
  """Any JSON: mostly a value that is odd somewhere, at times a small tree."""
  leaves = st.sampled_from(_VALUES)

  def lists_and_objects(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.sampled_from(("id", "step", "a")), children,
                        max_size=3))

  trees = st.recursive(leaves, lists_and_objects, max_leaves=5)
  # Copies: a later edit may go into a list that was put in place.
  return st.one_of(leaves, leaves, trees).map(copy.deepcopy)


@st.composite
def edited_json(draw, documents: Sequence[Any]) -> Any:
  """One of the documents, with some values replaced, removed or repeated."""
  document = copy.deepcopy(draw(st.sampled_from(documents)))
  for _ in range(draw(st.integers(1, _MAX_EDITS))):
    draw(_edit_somewhere(document))
  return document


@st.composite
def _edit_somewhere(draw, node: Any) -> None:
  """Goes down at random and edits the place that it reaches."""
  while isinstance(node, (dict, list)) and node:
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = draw(st.sampled_from(keys))
    stays = draw(st.integers(0, 3)) == 0
    if stays or not isinstance(node[key], (dict, list)):
      break
    node = node[key]
  else:
    return
  action = draw(st.sampled_from(("replace", "replace", "remove", "repeat")))
  if action == "replace":
    node[key] = draw(json_values())
  elif action == "remove":
    del node[key]
  elif isinstance(node, list):
    node.append(node[key])


@st.composite
def encoded_json(draw, documents: Sequence[Any]) -> bytes:
  """The bytes of edited JSON, in one of the encodings that people use."""
  text = json.dumps(draw(edited_json(documents)), ensure_ascii=False)
  encoding = draw(st.sampled_from(
      ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
  content = text.encode(encoding, errors="replace")
  if draw(st.integers(0, 4)) == 4:
    content = draw(edited_bytes([content]))
  return content
