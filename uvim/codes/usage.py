"""How a dictionary of words is used.

L code length · Q number of words
"""

import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Int


def histogram(code: Int[Array, "..."], num_words: int) -> Float[Array, "Q"]:
  """How often each word occurs in the codes, float32."""
  empty_Q = jnp.zeros((num_words,), jnp.float32)
  return empty_Q.at[code.reshape(-1)].add(1)


def perplexity(histogram_Q: Float[Array, "Q"]) -> Float[Array, ""]:
  """exp(entropy) of the usage: 1 for a single word, Q for an even use."""
  share_Q = histogram_Q / jnp.maximum(jnp.sum(histogram_Q), 1)
  return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share_Q, share_Q)))


def count_usage(usage_Q: Int[Array, "Q"], counts_Q: Float[Array, "Q"],
                starts_epoch) -> tuple[Int[Array, "Q"], dict[str, jax.Array]]:
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
  return usage_Q, {"code/usage": jnp.mean(usage_Q > 0),
                   "code/perplexity": perplexity(usage_Q)}
