"""Several words a pass of the language model, and the very same words.

B images · S samples per image · R rows = B · S · L code length
K places of a pass · G = K − 1 guesses · P = L + K places, some behind the code
Q codebook size · V = Q + 1 vocabulary (0 = start)

A word follows from its uniform number and the words before it. So it can be
drawn from guesses of those words, and is right if they are.

A pass feeds the last word of a row and K − 1 guesses of the words that follow.
It draws a word at each of these K places. The first one is right in any case.
The next one is right if the first one was guessed, and so on: words behind a
wrong guess are forgotten. So a pass draws 1 to K words, and no guess has any
influence on what they are. They can differ from those of one word a pass only
where rounding decides, as between two batch sizes.

Each row goes on from where its own guesses were wrong. The loop ends when the
slowest row is done.

There are two kinds of guessers. `LastPass` takes what the pass before drew
behind its wrong guess: Jacobi's iteration, which needs no training.
`uvim.priors.draft` has a small network that learns to guess.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from uvim import fields
from uvim.fields import field
from uvim.priors import packed_decoder
from uvim.priors.base import Samples, keep_given
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Int, PyTree, Tokens

# What a guesser keeps between the passes.
Kept = PyTree
# Draws from logits: (logits, uniform numbers, given words) → what was drawn.
Draw = Callable[[Array, Array | None, Array | None], Samples]

# Width of an attention head of the draft.
HEAD_SIZE = 32


def _is_draft_width(value):
  return fields.integer(1).fits(value) and value % HEAD_SIZE == 0


_DRAFT_WIDTH = fields.Check(
    f"a multiple of {HEAD_SIZE}", _is_draft_width)

# Up to so many rows, so many words a pass, by backend; with more rows one. On
# CPUs a pass of several places costs more than it gives. The figures of GPUs
# follow from bytes and operations of a pass; they are not measured.
_BY_NUM_ROWS = {"gpu": ((8, 8), (64, 4))}


@dataclasses.dataclass(frozen=True)
class SeveralWords:
  """How many words a pass draws, and who guesses; fields of `config.model`."""
  words_per_pass: int | None = field(
      None, doc="How many words one pass of sampling tries. Each number gives "
      "the same words. None: by backend and batch, on CPUs 1.",
      check=fields.optional(fields.integer(1, 64)))
  draft: int | None = field(
      None, doc="Width of a small network that learns beside this one and "
      "guesses words for `words_per_pass`. None: the pass before guesses.",
      check=fields.optional(_DRAFT_WIDTH))


def check(several: SeveralWords, autoregressive: bool, where: str) -> None:
  """Checks that the fields fit the language model.

  Args:
    several: each field has an allowed value.
    autoregressive: whether the model reads words.
    where: path of the block, for messages.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  if autoregressive:
    return
  for name, value in dataclasses.asdict(several).items():
    if value is not None:
      raise ConfigError(
          f"{where}.{name} = {value}; with autoregressive = False it must be "
          "None: such a model draws all words in one pass.")


def default_words_per_pass(num_rows: int) -> int:
  """K for so many rows, where the config does not say."""
  table = _BY_NUM_ROWS.get(jax.default_backend(), ())
  for most_rows, num_words in table:
    if num_rows <= most_rows:
      return num_words
  return 1


class Window(NamedTuple):
  """What is known of the places of a pass.

  Attributes:
    start_R: the first place of each row.
    uniform_RK: in [0, 1), what the words there are drawn with; None: the
      likeliest ones are taken.
    given_RK: words that are fixed there, -1 elsewhere; None: none is.
  """
  start_R: Int[Array, "R"]
  uniform_RK: Float[Array, "R K"] | None
  given_RK: Int[Array, "R K"] | None


class Guesser(Protocol):
  """Guesses the words that follow.

  Attributes:
    num_places: K.
  """
  num_places: int

  def first(self, num_rows: int, length: int) -> Kept:
    """What it keeps, before the first pass.

    Args:
      num_rows: R.
      length: P.
    """

  def guess(
      self, kept: Kept, word_R: Int[Array, "R"], window: Window,
  ) -> tuple[Int[Array, "R G"], Kept]:
    """The next K − 1 words of each row, and what it keeps.

    Args:
      kept: of the call before.
      word_R: the word before the window, in the vocabulary.
      window: of the pass that comes.
    """

  def after_pass(
      self,
      kept: Kept,
      code_RK: Int[Array, "R K"],
      num_right_R: Int[Array, "R"],
  ) -> Kept:
    """What it keeps after a pass.

    Args:
      kept: of `guess`.
      code_RK: the words that the pass drew.
      num_right_R: how many of them are right: the first ones.
    """


@dataclasses.dataclass(frozen=True)
class LastPass:
  """Guesses what the pass before drew behind its wrong guess.

  It often stays right, since a word often depends little on the one before it.
  Where the pass before drew nothing yet, its last word stands in.

  Attributes:
    num_places: K.
  """
  num_places: int

  def first(self, num_rows, length):
    del length
    return jnp.zeros((num_rows, self.num_places - 1), jnp.int32)

  def guess(self, kept, word_R, window):
    del word_R
    if window.given_RK is None:
      return kept, kept
    given_RG = window.given_RK[:, :-1]
    return keep_given(kept, given_RG), kept

  def after_pass(self, kept, code_RK, num_right_R):
    del kept
    last = self.num_places - 1
    offset_G = jnp.arange(last)
    index_RG = jnp.minimum(num_right_R[:, None] + offset_G[None], last)
    return jnp.take_along_axis(code_RK, index_RG, axis=1)


class _State(flax.struct.PyTreeNode):
  """Where the rows stand between two passes.

  Attributes:
    start_R: how many words are drawn.
    word_R: the last of them, in the vocabulary.
    drawn: [R, P, …]; behind the words that are drawn stands anything.
    passes_R: how many passes that took.
    caches: of the language model.
    kept: of the guesser.
  """
  start_R: Int[Array, "R"]
  word_R: Int[Array, "R"]
  drawn: Samples
  passes_R: Int[Array, "R"]
  caches: list[packed_decoder.Cache]
  kept: Kept


def draw_words(
    packed: PyTree,
    encoded_BND: Tokens,
    uniform_RL: Float[Array, "R L"] | None,
    given_RL: Int[Array, "R L"] | None,
    *,
    draw: Draw,
    guesser: Guesser,
    num_rows: int,
    length: int,
) -> Samples:
  """Draws codes; `Samples` of [R, L] or [R, L, E], passes [R].

  Args:
    packed: the decoder, of `packed_decoder.pack`.
    encoded_BND: what it sees of the images.
    uniform_RL: as in `Window`, for all places.
    given_RL: as in `Window`, for all places.
    draw: draws from logits.
    guesser: guesses words.
    num_rows: R.
    length: L.
  """
  passes = _Passes(
      packed=packed,
      memories=packed_decoder.read_image(packed, encoded_BND),
      uniform_RP=_pad_places(uniform_RL, guesser.num_places, 0.0),
      given_RP=_pad_places(given_RL, guesser.num_places, -1),
      draw=draw,
      guesser=guesser,
      length=length)
  end = lax.while_loop(
      passes.is_unfinished, passes.run, passes.start(num_rows))
  drawn = jax.tree.map(lambda x_RP: x_RP[:, :length], end.drawn)
  return drawn.replace(passes=end.passes_R)


@dataclasses.dataclass(frozen=True)
class _Passes:
  """The loop over passes: what stays the same, and its parts.

  Attributes are as in `draw_words`, but for places to spare behind the code:
  the last window of a row may reach beyond it.
  """
  packed: PyTree
  memories: list[packed_decoder.Memory]
  uniform_RP: Array | None
  given_RP: Array | None
  draw: Draw
  guesser: Guesser
  length: int

  def start(self, num_rows):
    """The state before the first pass."""
    room = self.length + self.guesser.num_places
    zeros_R = jnp.zeros(num_rows, jnp.int32)
    return _State(
        start_R=zeros_R,
        # The start word.
        word_R=zeros_R,
        drawn=self._nothing_drawn(num_rows, room),
        passes_R=zeros_R,
        caches=packed_decoder.grow_caches(self.packed, None, num_rows, room),
        kept=self.guesser.first(num_rows, room))

  def is_unfinished(self, state):
    """Whether any row lacks words."""
    return jnp.any(state.start_R < self.length)

  def run(self, state):
    """The state after one more pass."""
    window = self._window(state.start_R)
    guess_RG, kept = self.guesser.guess(state.kept, state.word_R, window)
    text_RK = jnp.concatenate([state.word_R[:, None], guess_RG + 1], axis=1)
    logits_RKV, caches = packed_decoder.step_places(
        self.packed, self.memories, state.caches, text_RK, state.start_R)
    drawn = self.draw(logits_RKV, window.uniform_RK, window.given_RK)
    num_right_R = _count_right(guess_RG, drawn.code)
    # Rows that are done stay where they are.
    next_start_R = jnp.minimum(state.start_R + num_right_R, self.length)
    is_drawing_R = state.start_R < self.length
    return _State(
        start_R=next_start_R,
        word_R=_last_right(drawn.code, num_right_R) + 1,
        drawn=_put_places(state.drawn, drawn, state.start_R),
        passes_R=state.passes_R + is_drawing_R,
        caches=caches,
        kept=self.guesser.after_pass(kept, drawn.code, num_right_R))

  def _window(self, start_R):
    num_places = self.guesser.num_places
    return Window(
        start_R,
        _take_places(self.uniform_RP, start_R, num_places),
        _take_places(self.given_RP, start_R, num_places))

  def _nothing_drawn(self, num_rows, room):
    """Zeros for all that `draw` gives at all places."""
    vocab_size = self.packed["logits"]["bias"].shape[0]
    logits_RPV = jax.ShapeDtypeStruct(
        (num_rows, room, vocab_size), jnp.float32)
    shapes = jax.eval_shape(
        self.draw, logits_RPV, self.uniform_RP, self.given_RP)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _count_right(guess_RG, code_RK):
  """How many words of each row are right: one more than the right guesses."""
  is_right_RG = guess_RG == code_RK[:, :-1]
  # A right guess behind a wrong one does not count.
  all_right_RG = jnp.cumprod(is_right_RG, axis=1, dtype=jnp.int32)
  return 1 + jnp.sum(all_right_RG, axis=1)


def _last_right(code_RK, num_right_R):
  """The last word of each row that is right."""
  index_R1 = num_right_R[:, None] - 1
  return jnp.take_along_axis(code_RK, index_R1, axis=1)[:, 0]


def _pad_places(x_RL, num_places, value):
  """These numbers with some more places behind them; None stays None."""
  if x_RL is None:
    return None
  return jnp.pad(
      x_RL, ((0, 0), (0, num_places)), constant_values=value)


def _take_places(x_RP, start_R, num_places):
  """The numbers at `num_places` places of each row; None stays None."""
  if x_RP is None:
    return None

  def take_row(x_P, start):
    return lax.dynamic_slice_in_dim(x_P, start, num_places)

  return jax.vmap(take_row)(x_RP, start_R)


def _put_places(old, new, start_R):
  """Trees of [R, P, …], and [R, K, …] that replaces part of them."""
  def put_row(old_P, new_K, start):
    return lax.dynamic_update_slice_in_dim(old_P, new_K, start, axis=0)

  put_rows = jax.vmap(put_row)
  return jax.tree.map(
      lambda old_RP, new_RK: put_rows(old_RP, new_RK, start_R), old, new)
