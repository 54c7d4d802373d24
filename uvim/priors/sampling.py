"""Sampling guiding codes from the language model, word by word, with caches.

B images · S samples per image · R rows = B · S · L code length
Q codebook size · V = Q + 1 vocabulary (0 = start)
H W image pixels · C channels · N patches · D width

One jitted program per shape: the image is encoded once, its cross-attention
keys and values are computed once and shared by all samples of that image, and
a scan over the words runs without returning to the host. The network of one
step, and what it keeps between the words, is in
`uvim.priors.packed_decoder`. `uvim.priors.several_words` draws the same words
in fewer passes.

Words and codes are offset by one. The decoder reads and predicts the
vocabulary 0..Q, where 0 starts a sequence. A code holds 0..Q-1. `choose_code`
returns codes; `code + 1` is what the decoder is fed next.

Randomness: one uniform number per word, from (seed of the image, index of the
sample, position) alone. So an image with its seed gets the same code in any
batch, at any place in it, with or without padding, and one program draws with
a number instead of a vector of V Gumbel noises per word.

Source: paper, "Sampling from LM at test time".
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from uvim.encoders.image_encoder import Seen
from uvim.priors import packed_decoder, several_words
from uvim.priors.base import Samples, keep_given
from uvim.priors.draft import DraftGuesser, DraftNetwork
from uvim.priors.soft_words import SoftWords
from uvim.typing import Array, Float, Int, PyTree, Seeds, Words

# Below this temperature the likeliest word has all of the probability: two
# logits in float32 differ by far more, if at all. A division by less would
# leave the range of float32.
_COLDEST = 1e-30

# A top_p that no sum of probabilities reaches, not even a rounded one.
_ANY_PROBABILITY = 2.0

# Logits of any number of words, and one number, or one code, for each.
AnyLogits = Float[Array, "*b V"]
AnyUniform = Float[Array, "*b"]
AnyCode = Int[Array, "*b"]


def sample(
    model,
    params: PyTree,
    image: Seen,
    seeds_B: Seeds,
    *,
    temperature: float = 0.0,
    num_samples: int = 1,
    top_k: int | None = None,
    top_p: float | None = None,
    given: Words | None = None,
    soft: SoftWords | None = None,
    words_per_pass: int = 1,
    draft: DraftNetwork | None = None,
    draft_params: PyTree = None,
) -> Samples:
  """Draws `num_samples` codes per image.

  May be called inside another jit, where the options must still be Python
  numbers (static): whether it is greedy decides which program is built.

  Args:
    model: the `uvim.priors.lm.LM`.
    params: its parameters.
    image: in [-1, 1]; with an image encoder a Context with its features.
    seeds_B: one integer per image; unused at temperature 0.
    temperature: 0, or less than 1e-30, takes the likeliest word, exactly
      (ties: the lowest index);
      1 samples the model's distribution. Not restricted to ≤ 1.
    num_samples: S; at temperature 0 they are all equal.
    top_k: keep the k likeliest words only.
    top_p: keep the smallest set of likeliest words whose probability at this
      temperature, after top_k, reaches p.
    given: words that are fixed; -1 where a word is drawn. A word knows the
      given words before it, not those after it.
    soft: which vectors are means over all words; None: none.
    words_per_pass: how many words a pass tries; with more than one, `soft` has
      no `inputs`.
    draft: guesses words for that; None: the pass before does.
    draft_params: its parameters.
  """
  greedy = is_greedy(temperature)
  if greedy:  # They have no use then; fixed values share one program.
    temperature = 1.0
    top_k = None
    top_p = None
  truncates = top_k is not None or top_p is not None
  num_sorted = None
  if truncates:
    # What is not given truncates nothing: all words, any probability.
    num_words = model.vocab_size - 1
    top_k = num_words if top_k is None else top_k
    num_sorted = _sort_size(top_k, num_words)
    top_p = _ANY_PROBABILITY if top_p is None else top_p
  seeds_B = jnp.asarray(seeds_B).astype(jnp.uint32)
  return _sample(
      model, params, image, seeds_B, given, temperature, top_p, top_k,
      soft or SoftWords(), draft_params, greedy=greedy,
      num_samples=num_samples, num_sorted=num_sorted,
      words_per_pass=words_per_pass, draft=draft)


def is_greedy(temperature: float) -> bool:
  """Whether this is taken for 0."""
  return temperature < _COLDEST


def _sort_size(top_k: int, num_words: int) -> int:
  """How many words a program sorts: a few sizes serve every top_k.

  A program for each top_k would be compiled and kept; a sort of all words takes
  ten times as long as one of a few.
  """
  size = max(64, 2 ** math.ceil(math.log2(top_k)))
  return min(size, num_words)


# Temperature, top_k and top_p are traced: a slider for one of them does not
# recompile, but for the few sizes of `_sort_size`.
@functools.partial(jax.jit, static_argnums=0,
                   static_argnames=("greedy", "num_samples", "num_sorted",
                                    "words_per_pass", "draft"))
def _sample(model, params, image, seeds_B, given_BL, temperature, top_p,
            top_k, soft, draft_params, *, greedy, num_samples, num_sorted,
            words_per_pass, draft):
  model = model.bind({"params": params})
  encoded_BND = model.encode(image)
  choose = functools.partial(
      choose_code,
      temperature=temperature,
      greedy=greedy,
      top_k=top_k,
      top_p=top_p,
      num_sorted=num_sorted)
  draw = functools.partial(_draw, choose, soft)
  uniform_RL = None
  if not greedy:
    uniform_RL = _uniforms(seeds_B, num_samples, model.seq_len)
  given_RL = None
  if given_BL is not None:
    given_RL = jnp.repeat(given_BL, num_samples, axis=0)
  arguments = (model, encoded_BND, uniform_RL, given_RL, draw, num_samples)
  if not model.autoregressive:
    drawn = _draw_at_once(*arguments)
  elif words_per_pass == 1:
    drawn = _draw_words(*arguments, soft)
  else:
    network = None
    if draft is not None:
      network = draft.bind({"params": draft_params})
    drawn = _draw_several_words(*arguments, words_per_pass, network)
  num_images = encoded_BND.shape[0]

  def by_image(x_R):
    return x_R.reshape(num_images, num_samples, *x_R.shape[1:])

  return jax.tree.map(by_image, drawn)


def _uniforms(seeds_B, num_samples, seq_len):
  """The uniform number in [0, 1) behind every word of every sample, [R, L]."""
  def of_sample(seed, sample):
    image_key = jax.random.key(seed)
    sample_key = jax.random.fold_in(image_key, sample)
    return jax.random.uniform(sample_key, (seq_len,))

  of_image = jax.vmap(of_sample, in_axes=(None, 0))
  of_batch = jax.vmap(of_image, in_axes=(0, None))
  samples_S = jnp.arange(num_samples)
  uniform_BSL = of_batch(seeds_B, samples_S)
  return uniform_BSL.reshape(-1, seq_len)


def _draw(choose, soft, logits, uniform, given):
  """`Samples` of any number of words, from their logits."""
  code = keep_given(choose(logits, uniform), given)
  return Samples(
      code=code,
      logprob=_logprob(logits, code),
      vectors=soft.for_base_model(logits, code, given))


def _draw_words(
    model, encoded_BND, uniform_RL, given_RL, draw, num_samples, soft):
  """One word after the other; the `Samples`, each [R, L] or [R, L, E]."""
  num_images = encoded_BND.shape[0]
  num_rows = num_images * num_samples
  # What every word needs and none changes; computed before the loop.
  packed = model.packed_decoder(encoded_BND)
  memories = packed_decoder.read_image(packed, encoded_BND)

  def draw_word(carry, inputs):
    last_input, caches = carry
    position, uniform_R, given_R = inputs
    logits_RV, caches = packed_decoder.step(
        packed, memories, caches, last_input, position)
    drawn = draw(logits_RV, uniform_R, given_R)
    next_input = soft.next_input(
        packed["embedding"], logits_RV, drawn.code, given_R)
    return (next_input, caches), drawn

  # Every sequence begins with the start word 0.
  next_input = soft.first_input(packed["embedding"], num_rows)
  caches = None
  drawn = []
  start = 0
  for stop in cache_sizes(model.seq_len):
    # A scan of its own for each size of the caches.
    caches = packed_decoder.grow_caches(packed, caches, num_rows, stop)
    inputs = (
        jnp.arange(start, stop),
        _take_places(uniform_RL, start, stop),
        _take_places(given_RL, start, stop))
    carry = (next_input, caches)
    (next_input, caches), part = lax.scan(draw_word, carry, inputs)
    drawn.append(part)
    start = stop

  def join(*parts_LR):
    return jnp.swapaxes(jnp.concatenate(parts_LR), 0, 1)

  return jax.tree.map(join, *drawn)


def _take_places(x_RL, start, stop):
  """These places, first as a scan takes its steps; None stays None."""
  if x_RL is None:
    return None
  return x_RL[:, start:stop].T


def cache_sizes(seq_len):
  """The sizes of the caches, ascending; they grow while a code is drawn.

  A step takes about as long as reading the caches takes. With four sizes it
  reads five eighths of the L places on average. Every further size is another
  loop to compile.
  """
  size = max(64, math.ceil(seq_len / 4))
  return [*range(size, seq_len, size), seq_len]


def _draw_several_words(
    model, encoded_BND, uniform_RL, given_RL, draw, num_samples,
    words_per_pass, draft):
  """As `_draw_words`, in fewer passes, which are counted.

  Args:
    model, encoded_BND, uniform_RL, given_RL, draw, num_samples: as there.
    words_per_pass: how many words a pass tries.
    draft: a bound network that guesses them; None: the pass before does.
  """
  guesser = several_words.LastPass(words_per_pass)
  if draft is not None:
    packed_draft = draft.packed(model.places(encoded_BND))
    memories = packed_decoder.read_image(packed_draft, encoded_BND)
    guesser = DraftGuesser(packed_draft, memories, draw, words_per_pass)
  return several_words.draw_words(
      model.packed_decoder(encoded_BND), encoded_BND, uniform_RL, given_RL,
      draw=draw,
      guesser=guesser,
      num_rows=len(encoded_BND) * num_samples,
      length=model.seq_len)


def _draw_at_once(
    model, encoded_BND, uniform_RL, given_RL, draw, num_samples):
  """The ablation without autoregression: one pass gives every word."""
  # Such a model reads no words: any will do.
  num_images = encoded_BND.shape[0]
  nothing_BL = jnp.zeros((num_images, model.seq_len), jnp.int32)
  logits_BLV = model.logits(encoded_BND, nothing_BL)
  logits_RLV = jnp.repeat(logits_BLV, num_samples, axis=0)
  return draw(logits_RLV, uniform_RL, given_RL)


def _logprob(logits, code):
  """Log-probability of each word under the model itself, untruncated."""
  vocabulary_index = code[..., None] + 1
  picked = jnp.take_along_axis(logits, vocabulary_index, axis=-1)[..., 0]
  return picked - jax.nn.logsumexp(logits, axis=-1)


def choose_code(
    logits: AnyLogits,
    uniform: AnyUniform | None,
    *,
    temperature,
    greedy: bool,
    top_k,
    top_p,
    num_sorted: int | None = None,
) -> AnyCode:
  """Codes in 0..Q-1, drawn by inverting the distribution function.

  The start word is cut off before anything is drawn: as code -1 it would index
  the last row of the codebook without an error.

  Args:
    logits: of the vocabulary.
    uniform: in [0, 1); unused if greedy.
    temperature, greedy, top_k, top_p: see `sample`.
    num_sorted: at least top_k; None: all words.
  """
  logits = logits[..., 1:]
  if greedy:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = logits / temperature
  num_words = logits.shape[-1]
  if top_k is None and top_p is None:
    probs = jax.nn.softmax(logits)
    return _invert(probs, uniform, num_words)

  # Sorted, what may be drawn is a prefix: rounding cannot leave it. More words
  # than top_k are sorted and then masked by rank, so that it may be traced.
  logits, code = lax.top_k(logits, num_sorted or num_words)
  last_axis = logits.ndim - 1
  ranks = lax.broadcasted_iota(jnp.int32, logits.shape, last_axis)
  is_among_k = ranks < (num_words if top_k is None else top_k)
  probs = jax.nn.softmax(jnp.where(is_among_k, logits, -jnp.inf))
  # A word stays if those before it do not reach p yet; the first always does.
  before = jnp.cumsum(probs, axis=-1) - probs
  limit = _ANY_PROBABILITY if top_p is None else top_p
  kept = ((before < limit) & is_among_k).at[..., 0].set(True)
  num_kept = jnp.sum(kept, axis=-1)
  probs = jnp.where(kept, probs, 0.0)
  rank = _invert(probs, uniform, num_kept)
  return jnp.take_along_axis(code, rank[..., None], axis=-1)[..., 0]


def _invert(probs, uniform, num_kept):
  """Indices drawn with these probabilities, which need not sum to 1.

  The probabilities, one after the other, divide [0, their sum). The index is
  that of the part in which uniform · sum lies.
  """
  share = jnp.cumsum(probs, axis=-1)
  target = uniform[..., None] * share[..., -1:]
  index = jnp.sum(share <= target, axis=-1)
  # Rounding can put the target at the very end, beyond the last word.
  last = num_kept - 1
  return jnp.minimum(index, last).astype(jnp.int32)
