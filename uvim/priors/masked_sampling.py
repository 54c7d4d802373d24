"""Sampling guiding codes from a masked language model, many words at a time.

B images · S samples per image · R rows = B · S · L code length · T steps
Q codebook size · V = Q + 1 vocabulary (0 = unknown) · N patches · D width

At first every word is unknown, but for those that were given. A step predicts
all unknown words from those that are known, keeps the words that the model is
surest of, and makes the others unknown again. After the last step all are kept.

One jitted program per shape: the image is encoded once, its cross-attention
keys and values are computed once and shared by all steps and samples. The
number of steps is traced, so that another one compiles nothing.

Randomness: from (seed of the image, index of the sample, step) alone. So an
image with its seed gets the same code in any batch.

Source: Chang et al., "MaskGIT: Masked Generative Image Transformer".
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from uvim.encoders.image_encoder import Seen
from uvim.priors import lm, mask_schedules, packed_decoder, sampling
from uvim.priors.base import Samples
from uvim.typing import (
  Array,
  Bool,
  Float,
  Int,
  PRNGKey,
  PyTree,
  Seeds,
  Words,
)

UNKNOWN = -1


class State(flax.struct.PyTreeNode):
  """Codes on their way through the steps.

  Attributes:
    known: i32 [R, L], the words that are kept so far; -1 where one is unknown.
    code: i32 [R, L], all words as of the last step.
    logprob: f32 [R, L], log-probability in nats of each word at the step in
      which it was drawn; 0 of one that was given.
  """
  known: Array
  code: Array
  logprob: Array


class Noise(NamedTuple):
  """The random numbers of one step, f32 [R, L] each.

  Attributes:
    word: uniform in [0, 1), decides which word is drawn.
    choice: Gumbel, decides which words are kept.
  """
  word: Array
  choice: Array


def sample(
    model: lm.LM,
    params: PyTree,
    image: Seen,
    seeds_B: Seeds,
    *,
    method: str,
    num_samples: int = 1,
    given: Words | None = None,
    num_iter: int = 12,
    temperature: float = 1.0,
    choice_temperature: float = 4.5,
) -> Samples:
  """Draws `num_samples` codes per image; see `sampling.sample`.

  Args:
    model: the `LM`.
    params: its parameters.
    image: in [-1, 1]; with an image encoder a Context with its features.
    seeds_B: one integer per image; unused if both temperatures are 0.
    method: schedule, see `mask_schedules`.
    num_samples: S.
    given: words that are fixed; -1 where a word is drawn. All words know them.
    num_iter: T. More steps than words are as many as there are words.
    temperature: as for `sampling.sample`, of the words.
    choice_temperature: how much chance decides which words are kept, less
      from step to step. 0: those that the model is surest of.
  """
  num_iter = min(num_iter, model.seq_len)
  greedy = sampling.is_greedy(temperature)
  if greedy:  # It has no use then; a fixed value shares one program.
    temperature = 1.0
  if given is None:
    given = np.full((len(seeds_B), model.seq_len), UNKNOWN, np.int32)
  seeds_B = jnp.asarray(seeds_B).astype(jnp.uint32)
  return _sample(
      model, params, image, seeds_B, jnp.asarray(given),
      _num_masked(num_iter, model.seq_len, method), num_iter, temperature,
      choice_temperature, greedy=greedy, num_samples=num_samples)


def _num_masked(num_iter, seq_len, method):
  """How many words each step masks, in one shape for every number of steps."""
  num_masked_TL = mask_schedules.num_masked(num_iter, seq_len, method)
  num_unused = seq_len - num_iter
  return np.pad(num_masked_TL, ((0, num_unused), (0, 0)))


@functools.partial(jax.jit, static_argnums=0,
                   static_argnames=("greedy", "num_samples"))
def _sample(model, params, image, seeds_B, given_BL, num_masked_LL, num_iter,
            temperature, choice_temperature, *, greedy, num_samples):
  model = model.bind({"params": params})
  encoded_BND = model.encode(image)
  # What every step needs and none changes.
  packed = model.packed_decoder(encoded_BND)
  memories = packed_decoder.read_image(packed, encoded_BND)
  keys_R = _keys(seeds_B, num_samples)
  given_RL = jnp.repeat(given_BL, num_samples, axis=0)
  num_unknown_R = jnp.sum(given_RL == UNKNOWN, axis=1)

  def run_step(index, state):
    # In the vocabulary, 0 is an unknown word.
    logits_RLV = packed_decoder.read_words(packed, memories, state.known + 1)
    noise = draw_noise(keys_R, index, model.seq_len)
    drawn_RL = sampling.choose_code(
        logits_RLV, noise.word, temperature=temperature, greedy=greedy,
        top_k=None, top_p=None)
    progress = (index + 1) / num_iter
    # Chance decides less and less, and nothing in the last step.
    weight = choice_temperature * (1 - progress)
    return keep_words(
        state, drawn_RL, word_logprob(logits_RLV, drawn_RL),
        choice_noise_RL=noise.choice * weight,
        num_masked_R=num_masked_LL[index, num_unknown_R])

  state = State(
      known=given_RL,
      code=given_RL,
      logprob=jnp.zeros(given_RL.shape))
  state = jax.lax.fori_loop(0, num_iter, run_step, state)
  shape_BSL = (len(given_BL), num_samples, model.seq_len)
  return Samples(
      code=state.code.reshape(shape_BSL),
      logprob=state.logprob.reshape(shape_BSL))


def keep_words(
    state: State,
    drawn_RL: Int[Array, "R L"],
    logprob_RL: Float[Array, "R L"],
    *,
    choice_noise_RL: Float[Array, "R L"],
    num_masked_R: Int[Array, "R"],
) -> State:
  """Takes the words drawn at unknown places, and keeps the surest of them.

  Args:
    state: before the step.
    drawn_RL: a word for each place.
    logprob_RL: log-probabilities of these words.
    choice_noise_RL: added to them before they are compared.
    num_masked_R: how many words the schedule leaves unknown. There is at least
      one that is known after the step, and one that is not.
  """
  is_unknown_RL = state.known == UNKNOWN
  code_RL = jnp.where(is_unknown_RL, drawn_RL, state.known)
  logprob_RL = jnp.where(is_unknown_RL, logprob_RL, state.logprob)
  num_masked_R = limit_masked(num_masked_R, is_unknown_RL)
  confidence_RL = confidence(is_unknown_RL, logprob_RL, choice_noise_RL)
  is_masked_RL = is_unknown_RL & are_lowest(confidence_RL, num_masked_R)
  return State(
      known=jnp.where(is_masked_RL, UNKNOWN, code_RL),
      code=code_RL,
      logprob=logprob_RL)


def are_lowest(
    values_RL: Float[Array, "R L"], number_R: Int[Array, "R"],
) -> Bool[Array, "R L"]:
  """Which values are among the so many lowest of their row.

  By rank and not by a threshold: of two equal ones only one may be among them.
  """
  order_RL = jnp.argsort(values_RL, axis=1)
  rank_RL = jnp.argsort(order_RL, axis=1)
  return rank_RL < number_R[:, None]


def confidence(
    is_unknown_RL: Bool[Array, "R L"],
    logprob_RL: Float[Array, "R L"],
    choice_noise_RL: Float[Array, "R L"],
) -> Float[Array, "R L"]:
  """What words are compared by; nothing is surer than a known word."""
  return jnp.where(is_unknown_RL, logprob_RL + choice_noise_RL, jnp.inf)


def limit_masked(
    num_masked_R: Int[Array, "R"], is_unknown_RL: Bool[Array, "R L"],
) -> Int[Array, "R"]:
  """At least 1 stays masked, and at least 1 less than before."""
  num_unknown_R = jnp.sum(is_unknown_RL, axis=1)
  return jnp.maximum(1, jnp.minimum(num_unknown_R - 1, num_masked_R))


def word_logprob(
    logits: Float[Array, "*b V"], code: Int[Array, "*b"],
) -> Float[Array, "*b"]:
  """Log-probability of each word among the words; "unknown" is none of them."""
  logprob = jax.nn.log_softmax(logits[..., 1:])
  return jnp.take_along_axis(logprob, code[..., None], axis=-1)[..., 0]


def _keys(seeds_B, num_samples):
  """A key for every sample of every image, [R]."""
  def of_sample(seed, sample):
    image_key = jax.random.key(seed)
    return jax.random.fold_in(image_key, sample)

  of_image = jax.vmap(of_sample, in_axes=(None, 0))
  of_batch = jax.vmap(of_image, in_axes=(0, None))
  keys_BS = of_batch(seeds_B, jnp.arange(num_samples))
  return keys_BS.reshape(-1)


def draw_noise(keys_R: PRNGKey, index: Any, seq_len: int) -> Noise:
  """The random numbers of step `index`, for each row from its own key."""
  def of_row(key):
    word_key, choice_key = jax.random.split(jax.random.fold_in(key, index))
    word_L = jax.random.uniform(word_key, (seq_len,))
    choice_L = jax.random.gumbel(choice_key, (seq_len,))
    return Noise(word_L, choice_L)

  return jax.vmap(of_row)(keys_R)
