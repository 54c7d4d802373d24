"""A small network that guesses the words of the language model.

B images · R rows · L code length · K places of a pass · G = K − 1 guesses
N patches · M width of the encoded image · D width of the language model
W width of the draft · V vocabulary (0 = start)

It is a decoder of one block. It reads what the language model's encoder makes
of the image, and where the language model believes each word to lie. It learns
beside the language model and gives it no gradient.

Where a code is drawn, the draft says word after word what it would draw with
the same uniform numbers; the language model then looks at all of these words at
once, see `uvim.priors.several_words`.
"""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from uvim.priors import decoder, packed_decoder
from uvim.priors import lm as lm_lib
from uvim.priors.several_words import HEAD_SIZE, Draw
from uvim.typing import Array, Float, PRNGKey, PyTree, Words

# The part of the prior's parameters where the draft stands.
NAME = "draft"


class DraftNetwork(nn.Module):
  """Words and encoded image → logits of a word for every place.

  Attributes:
    width: W, a multiple of HEAD_SIZE.
    vocab_size: V.
    dtype: of the matmuls.
  """
  width: int
  vocab_size: int
  dtype: str = "float32"

  def setup(self):
    self.place_projection = nn.Dense(self.width, dtype=self.dtype)
    self.decoder = decoder.Decoder(
        num_layers=1,
        num_heads=self.width // HEAD_SIZE,
        mlp_dim=4 * self.width,
        emb_dim=self.width,
        vocab_size=self.vocab_size,
        dtype=self.dtype)

  def __call__(
      self,
      encoded_BNM: decoder.Encoded,
      text_BL: Words,
      places: decoder.Places,
  ) -> Float[Array, "B L V"]:
    """Float32 logits of each word of `text_BL` given the words before it.

    Args:
      encoded_BNM: as the language model's decoder gets it.
      text_BL: code + 1.
      places: as the language model's decoder gets them.
    """
    return self.decoder(encoded_BNM, text_BL, self._project(places))

  def packed(self, places: decoder.Places) -> PyTree:
    """Parameters laid out by `packed_decoder.pack`; call on a bound network."""
    params = self.decoder.variables["params"]
    return packed_decoder.pack(
        params, self._project(places), dtype=self.dtype)

  def _project(self, places):
    # In float32, as positions are.
    return self.place_projection(places).astype(jnp.float32)


def make_network(lm: lm_lib.LM, width: int) -> DraftNetwork:
  """The draft of a language model."""
  return DraftNetwork(width, lm.vocab_size, lm.dtype)


def init(network: DraftNetwork, lm: lm_lib.LM, rng: PRNGKey) -> PyTree:
  """Fresh parameters of the draft of `lm`."""
  width = lm.decoder_emb_dim or lm.emb_dim
  num_patches = math.prod(lm.grid_size)
  encoded_BNM = jnp.zeros((1, num_patches, lm.emb_dim))
  places_BLD = jnp.zeros((1, lm.seq_len, width))
  text_BL = lm.example_sequence()
  return network.init(rng, encoded_BNM, text_BL, places_BLD)["params"]


@dataclasses.dataclass(frozen=True)
class DraftGuesser:
  """Guesses what the draft draws, one word after the other.

  It keeps the caches of the draft.

  Attributes:
    packed: the draft, of `DraftNetwork.packed`.
    memories: the images, of `packed_decoder.read_image`.
    draw: draws from logits.
    num_places: K.
  """
  packed: PyTree
  memories: list[packed_decoder.Memory]
  draw: Draw
  num_places: int

  def first(self, num_rows, length):
    return packed_decoder.grow_caches(self.packed, None, num_rows, length)

  def guess(self, kept, word_R, window):
    def guess_word(carry, place):
      word_R, caches = carry
      offset, uniform_R, given_R = place
      logits_R1V, caches = packed_decoder.step_places(
          self.packed, self.memories, caches, word_R[:, None],
          window.start_R + offset)
      code_R = self.draw(logits_R1V[:, 0], uniform_R, given_R).code
      return (code_R + 1, caches), code_R

    # One word more than is asked for, so that the last guess is fed, too. If
    # all guesses are right, the caches need it.
    offset_K = jnp.arange(self.num_places)
    uniform_KR = _places_first(window.uniform_RK)
    given_KR = _places_first(window.given_RK)
    (_, caches), code_KR = lax.scan(
        guess_word, (word_R, kept), (offset_K, uniform_KR, given_KR))
    guess_GR = code_KR[:-1]
    return guess_GR.T, caches

  def after_pass(self, kept, code_RK, num_right_R):
    # Words behind a wrong guess are fed again, and replaced in the caches.
    del code_RK, num_right_R
    return kept


def _places_first(x_RK):
  """As a scan takes it, [K, R]; None stays None."""
  return None if x_RK is None else x_RK.T
