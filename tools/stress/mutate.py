"""Random edits of text and bytes, as a seeded generator draws them."""

import random
from collections.abc import Callable

# What may take the place of a word or a number.
LITERALS = (
    "0", "-1", "1", "3", "7.5", "-0.0", "1e400", "99999999999999999999",
    "2147483648", "True", "None", "''", '"image"', '"nope"', "[]", "()", "{}",
    "(1, 2)", "(0, 0)", "[3, -1]", "(1, 2, 3)", "1j", "b'x'", "{'a': 1}",
    "'labels'", "x", "open('f')", "...", "'a|b'", "9" * 5000, "(" * 300)
CHARACTERS = '|(),"\'=[]{}0123456789.-_ eExX\n\t\\ñ∞\0*:;#'
# What may take the place of a size in a header, among other things.
FOUR_BYTES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0",
              b"\x7f\xff\xff\xff")

LONGEST_SPAN = 12  # Of text, in characters.
LONGEST_CUT = 40  # Of bytes.
HEADER = 64  # Bytes at the beginning, where most of the meaning is.
HEADER_SHARE = 0.6  # How many edits of single bytes go there.
LARGEST_FILE = 1 << 20


# ── Text ────────────────────────────────────────────────────────────────────


def mutate_text(rng: random.Random, text: str) -> str:
  """A few random edits: characters, spans, numbers, words, sections."""
  num_edits = rng.choice((1, 1, 2, 4))
  for _ in range(num_edits):
    start, stop = _draw_span(rng, len(text))
    stop = min(stop, start + LONGEST_SPAN)
    edit = rng.choice(_TEXT_EDITS)
    text = edit(rng, text, start, stop)
  return text


def _draw_span(rng, length: int) -> tuple[int, int]:
  first = rng.randint(0, length)
  second = rng.randint(0, length)
  return min(first, second), max(first, second)


def _cut(rng, text, start, stop):
  del rng
  return text[:start] + text[stop:]


def _repeat(rng, text, start, stop):
  del rng
  return text[:stop] + text[start:]


def _insert_character(rng, text, start, stop):
  del stop
  return text[:start] + rng.choice(CHARACTERS) + text[start:]


def _replace_span(rng, text, start, stop):
  return text[:start] + rng.choice(CHARACTERS) + text[stop:]


def _replace_number(rng, text, start, stop):
  del start, stop
  return _replace_token(rng, text, str.isdigit)


def _replace_word(rng, text, start, stop):
  del start, stop
  return _replace_token(rng, text, str.isalpha)


def _shuffle_sections(rng, text, start, stop):
  del start, stop
  sections = text.split("|")
  rng.shuffle(sections)
  num_kept = rng.randint(1, len(sections))
  return "|".join(sections[:num_kept])


_TEXT_EDITS = (_cut, _repeat, _insert_character, _replace_span,
               _replace_number, _replace_word, _shuffle_sections)


def _replace_token(rng, text: str, belongs: Callable[[str], bool]) -> str:
  """Puts a literal in the place of one run of such characters."""
  starts = []
  for i, character in enumerate(text):
    goes_on = i > 0 and belongs(text[i - 1])
    if belongs(character) and not goes_on:
      starts.append(i)
  if not starts:
    return text
  start = rng.choice(starts)
  stop = start
  while stop < len(text) and belongs(text[stop]):
    stop += 1
  return text[:start] + rng.choice(LITERALS) + text[stop:]


# ── Bytes ───────────────────────────────────────────────────────────────────


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
  """A few random edits: flips, cuts, repeats, large and small numbers."""
  edited = bytearray(content)
  num_edits = rng.randint(1, 6)
  for _ in range(num_edits):
    start, stop = _draw_span(rng, len(edited))
    position = _draw_position(rng, edited, start)
    edit = rng.choice(_BYTES_EDITS)
    edit(rng, edited, start, stop, position)
  return bytes(edited[:LARGEST_FILE])


def _draw_position(rng, edited: bytearray, start: int) -> int:
  """A place in the header, mostly; else `start`."""
  if edited and rng.random() < HEADER_SHARE:
    return rng.randrange(min(len(edited), HEADER))
  return start


def _flip_bit(rng, edited, start, stop, position):
  del start, stop
  if position < len(edited):
    edited[position] ^= 1 << rng.randrange(8)


def _write_number(rng, edited, start, stop, position):
  del start, stop
  edited[position:position + 4] = rng.choice(FOUR_BYTES)


def _cut_bytes(rng, edited, start, stop, position):
  del rng, position
  del edited[start:min(stop, start + LONGEST_CUT)]


def _repeat_bytes(rng, edited, start, stop, position):
  del rng, position
  edited[start:start] = edited[start:stop]


def _end_early(rng, edited, start, stop, position):
  del rng, stop, position
  del edited[start:]


def _replace_byte(rng, edited, start, stop, position):
  del start, stop
  if position < len(edited):
    edited[position] = rng.randrange(256)


_BYTES_EDITS = (_flip_bit, _write_number, _cut_bytes, _repeat_bytes,
                _end_early, _replace_byte)
