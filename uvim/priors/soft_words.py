"""Soft words: the mean of all words' vectors, as the prior weighs them.

R rows · L code length · Q codebook size · V = Q + 1 vocabulary (0 = start)
E numbers of a code vector · D width of the language model

The prior chooses one word at each place and forgets how sure it was. A soft
word keeps it: it is Σ p(word) · vector(word). Words still get chosen, because
each depends on those before it; a code and its likelihood are of these. There
are two kinds of vectors, with a temperature each: f reads vectors of the
codebook, the language model reads its own embeddings.

Source: Ning et al., "All in Tokens" (AiT), where τ multiplies the logits; here
a temperature divides them, so that their τ = 0.8 is 1.25.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from uvim.typing import Array, Float, Int

# Logits of any number of places, a word for each, and a vector for each.
Logits = Float[Array, "*b V"]
Code = Int[Array, "*b"]
Vectors = Float[Array, "*b E"]


class SoftWords(flax.struct.PyTreeNode):
  """What is soft. Temperatures are traced: another one compiles nothing.

  Attributes:
    words: temperature of the vectors that f reads; None: f reads the code.
    inputs: temperature of the vectors that the language model reads; None: it
      reads the code.
    codewords: [Q, E], the vectors of the words; needed for `words` alone.
  """
  words: float | None = None
  inputs: float | None = None
  codewords: Array | None = None

  def for_base_model(
      self, logits: Logits, code: Code, given: Code | None,
  ) -> Vectors | None:
    """The vectors for f; None if it reads the code.

    Args:
      logits: of the vocabulary.
      code: the words that were chosen.
      given: words that the user has fixed, -1 elsewhere: they are not soft.
    """
    if self.words is None:
      return None
    return _soften(self.codewords, self.words, logits, code, given)

  def next_input(
      self,
      embedding_VD: Float[Array, "V D"],
      logits_RV: Float[Array, "R V"],
      code_R: Int[Array, "R"],
      given_R: Int[Array, "R"] | None,
  ) -> Int[Array, "R"] | Float[Array, "R D"]:
    """What the language model is fed next: words of its vocabulary, or vectors.
    """
    if self.inputs is None:
      return code_R + 1
    # The start word is none of those that may follow.
    return _soften(embedding_VD[1:], self.inputs, logits_RV, code_R, given_R)

  def first_input(
      self, embedding_VD: Float[Array, "V D"], num_rows: int,
  ) -> Int[Array, "R"] | Float[Array, "R D"]:
    """The start word, in the form of `next_input`."""
    start_R = jnp.zeros(num_rows, jnp.int32)
    if self.inputs is None:
      return start_R
    return embedding_VD[start_R]


def _soften(vectors_QE, temperature, logits, code, given):
  """The mean vectors, and at given places those of the words."""
  mean = mean_vectors(vectors_QE, temperature, logits)
  if given is None:
    return mean
  is_given = given >= 0
  return jnp.where(is_given[..., None], vectors_QE[code], mean)


def mean_vectors(
    vectors_QE: Float[Array, "Q E"], temperature: float, logits: Logits,
) -> Vectors:
  """Σ p(word) · vector(word) in float32; the start word has no part in it."""
  probability = jax.nn.softmax(logits[..., 1:] / temperature)
  return jnp.einsum(
      "...q,qe->...e", probability, vectors_QE, precision=lax.Precision.HIGHEST)
