"""A prior that predicts masked words from all others: MaskGIT.

B images · S samples · L code length · Q codebook size
V = Q + 1 vocabulary: word 0 is a masked word, word i + 1 is codeword i

The network is that of the paper's prior, without its causal mask; names and
shapes of the parameters are the same, so either can start from the other.
Sampling takes a few passes in place of L, and knows given words wherever they
lie.

Source: Chang et al., "MaskGIT: Masked Generative Image Transformer", and its
released code, whose names fields and options have.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields as fields_lib
from uvim.fields import Field, field
from uvim.priors import base, lm_prior, mask_schedules, masked_sampling
from uvim.priors import lm as lm_lib
from uvim.registry import ConfigError
from uvim.typing import Bool, Float, PRNGKey, PyTree, Words

_SHARE = fields_lib.number(0, 1.0)

_OPTIONS = (
    Field("num_iter", 12,
          "How many passes a code takes. 1 predicts all words at once; as many "
          "as words: one after the other.",
          check=fields_lib.integer(1, 1_000_000)),
    Field("temperature", 1.0,
          "0 takes the likeliest word at every place; 1 samples the model's "
          "distribution.", check=fields_lib.number(0, 1e38)),
    Field("choice_temperature", 4.5,
          "How much chance decides which words a pass keeps. 0: those that the "
          "model is surest of.", check=fields_lib.number(0, 1e6)),
)


@dataclasses.dataclass(frozen=True)
class Masking:
  """How training masks words; fields of `config.model`."""
  mask_scheduling_method: str = field(
      "cosine", doc="How the share of masked words falls, in training and in "
      "sampling: `uniform`, `cosine`, `log`, `exp`, or `pow` and an exponent.",
      source="MaskGIT `cosine`", check=mask_schedules.METHOD)
  min_masking_rate: float = field(
      0.5, doc="The least share of the words that training masks.",
      source="MaskGIT 0.5", check=_SHARE)
  label_smoothing: float = field(
      0.1, doc="Training takes this much of each word's probability and "
      "spreads it evenly over all words.", source="MaskGIT 0.1",
      check=_SHARE)


@dataclasses.dataclass(frozen=True)
class MaskedPrior(lm_prior.LmPrior):
  """p(masked words | known words, image).

  Attributes:
    masking: how training masks words.
  """
  masking: Masking = Masking()

  style = "masked"

  options = {option.name: option for option in _OPTIONS}

  panel = {
      "LM, T = 0": {"temperature": 0.0, "choice_temperature": 0.0, "seed": 0},
      "LM, T = 1, seed 1": {"seed": 1},
      "LM, T = 1, seed 2": {"seed": 2},
  }

  @property
  def given_note(self):
    return "Every word that follows knows all the fixed ones."

  @classmethod
  def from_fields(cls, model_fields, where):
    fields_lib.check_fields(cls.known_fields(), model_fields, where)
    of_masking, of_lm = lm_prior.take_fields(model_fields, Masking)
    lm = lm_prior.make_lm(of_lm, where)
    if not lm.autoregressive:
      raise ConfigError(
          f"{where}.autoregressive = False; with style = 'masked' it must be "
          "True. All words in one pass: the option num_iter = 1.")
    return cls(lm, masking=Masking(**of_masking))

  @classmethod
  def known_fields(cls):
    of_lm = fields_lib.fields_of(lm_lib.LM)
    return of_lm | fields_lib.fields_of(Masking)

  # ── Learning ────────────────────────────────────────────────────────────

  def loss(self, params, image, code, rngs_B=None):
    """Mean cross-entropy of the masked words; logs it without smoothing.

    Which words are masked follows from the keys. In evaluation, without keys,
    it follows from the code: the same in every evaluation and every batch.
    """
    label_smoothing = self.masking.label_smoothing
    code = self.as_sequence(code)
    if rngs_B is None:
      rngs_B = _keys_of(code)
      label_smoothing = 0.0
    is_masked_BL = jax.vmap(self.draw_mask)(rngs_B)
    ctx = self.see(params, image)

    def losses_of(ctx, code, is_masked_BL):
      logprob_BLQ = self._logprob(params, ctx, code, is_masked_BL)
      picked_BL1 = jnp.take_along_axis(logprob_BLQ, code[..., None], axis=-1)
      return -picked_BL1[..., 0], -jnp.mean(logprob_BLQ, axis=-1)

    nll_BL, spread_BL = self.in_halves(losses_of, ctx, code, is_masked_BL)
    nll_B = jnp.mean(nll_BL, axis=1, where=is_masked_BL)
    spread_B = jnp.mean(spread_BL, axis=1, where=is_masked_BL)
    loss_B = (1 - label_smoothing) * nll_B + label_smoothing * spread_B
    return loss_B, {"masked_nll": nll_B}

  def draw_mask(self, rng: PRNGKey) -> Bool[jax.Array, "L"]:
    """Which words of a code training masks; at least one."""
    ratio_rng, places_rng = jax.random.split(rng)
    # In (0, 1]: the logarithm of 0 is no share.
    ratio = 1 - jax.random.uniform(ratio_rng)
    length = self.lm.seq_len
    share = mask_schedules.masked_share(
        ratio, np.float32(max(length, 2)), self.masking.mask_scheduling_method,
        jnp)
    share = jnp.maximum(share, self.masking.min_masking_rate)
    num_masked = jnp.ceil(share * length)
    order_L = jax.random.permutation(places_rng, length)
    return order_L < num_masked

  def _logprob(
      self, params: PyTree, ctx, code: Words, is_masked_BL,
  ) -> Float[jax.Array, "B L Q"]:
    """Log-probability of every word at every place, given those not masked."""
    variables = {"params": lm_prior.lm_params(params)}
    text_BL = jnp.where(is_masked_BL, 0, code + 1)
    logits_BLV = self.lm.apply(
        variables, ctx, text_BL, method="masked_logits")
    # A masked word is none of those that may stand in a code.
    return jax.nn.log_softmax(logits_BLV[..., 1:])

  def metrics(self, nll_B):
    # The loss brings its own. Bits of a whole code are unknown.
    del nll_B
    return {}

  # ── Predicting ──────────────────────────────────────────────────────────

  def sample(
      self, params, image, seeds_B, *, num_samples=1, given=None, **options):
    self.check_options(options)
    base.check_num_samples(num_samples)
    self.check_given(given, len(seeds_B))
    if given is not None:
      given = self.as_sequence(given)
    ctx = self.see(params, image)
    samples = masked_sampling.sample(
        self.lm, lm_prior.lm_params(params), ctx, seeds_B,
        method=self.masking.mask_scheduling_method, given=given,
        num_samples=num_samples, **options)
    return self.as_samples(samples)


def _keys_of(code):
  """A key for each code, which follows from its words alone, [B]."""
  _, length = code.shape
  weights_L = jax.random.bits(jax.random.key(0), (length,))
  # Unsigned: the sum may leave 32 bits, and wraps around.
  hash_B = jnp.sum(code.astype(jnp.uint32) * weights_L[None], axis=1)
  return jax.vmap(jax.random.key)(hash_B)
