"""How the words of a codebook are used.

L code length · R words of a place · Q number of words
"""

import jax
import jax.numpy as jnp

from uvim.codes.base import CodeSpec
from uvim.typing import Array, Int, Logs, PerWord, Scalar

# Words of any number of codes.
Code = Int[Array, "..."]
# Counts since the epoch began; whole numbers, so that no use is rounded away.
Usage = Int[Array, "Q"]


def histogram(code: Code, num_words: int) -> PerWord:
  """How often each word occurs in the codes, float32."""
  empty_Q = jnp.zeros((num_words,), jnp.float32)
  words = code.reshape(-1)
  return empty_Q.at[words].add(1)


def count_entries(code: Code, spec: CodeSpec) -> PerWord:
  """How often the codes use each entry of each codebook, float32.

  Args:
    code: (B, *spec.shape), words.
    spec: of these codes; see `CodeSpec.num_entries`.
  """
  if spec.words_per_place > 1:
    # Word w of the second codebook stands behind all words of the first.
    depth_R = jnp.arange(spec.words_per_place)
    code = code + spec.num_words * depth_R[None, None]
  return histogram(code, spec.num_entries)


def perplexity(histogram_Q: PerWord) -> Scalar:
  """exp(entropy) of the usage: 1 for a single word, Q for an even use."""
  # Before the first word the total is 0, and no share may become NaN.
  total = jnp.maximum(jnp.sum(histogram_Q), 1)
  share_Q = histogram_Q / total
  # xlogy is 0 for a share of 0, where x · log(x) would be NaN.
  terms_Q = jax.scipy.special.xlogy(share_Q, share_Q)
  return jnp.exp(-jnp.sum(terms_Q))


def count_usage(
    usage_Q: Usage,
    counts_Q: PerWord,
    starts_epoch: jax.Array | bool,
) -> tuple[Usage, Logs]:
  """Adds the words of one step to those of the epoch so far.

  Args:
    usage_Q: how often each word was used since the epoch began.
    counts_Q: how often in this step.
    starts_epoch: bool; whether this is the first step of an epoch.

  Returns:
    The new usage, and `code/usage` (share of the words used at all) and
    `code/perplexity` to log.
  """
  usage_Q = jnp.where(starts_epoch, 0, usage_Q)
  usage_Q += counts_Q.astype(jnp.int32)
  logs = {
      "code/usage": jnp.mean(usage_Q > 0),
      "code/perplexity": perplexity(usage_Q),
  }
  return usage_Q, logs
