"""The paper's prior: an encoder–decoder language model, word by word.

B images · S samples · L code length · R words of a place, mostly 1
V = Q + 1 vocabulary: word 0 starts a sequence, word i + 1 is codeword i

Source: paper, "Experimental setup for stage II" and "Sampling from LM at test
time".
"""

import dataclasses

import jax
import jax.numpy as jnp

from uvim import fields as fields_lib
from uvim.nn import losses
from uvim.priors import base, lm_prior, sampling
from uvim.priors import lm as lm_lib
from uvim.priors.soft_words import SoftWords
from uvim.registry import ConfigError
from uvim.typing import PyTree


def _is_probability(value):
  return fields_lib.is_number(value) and 0 < value <= 1


_PROBABILITY = fields_lib.Check("a number in (0, 1]", _is_probability)
# Beyond, a word would have all of the probability, or all words the same.
_SOFT_TEMPERATURE = fields_lib.optional(fields_lib.number(0.001, 1000))


def _option(name: str, default, doc: str, check: fields_lib.Check):
  return fields_lib.Field(name, default, doc, check=check)


_OPTIONS = (
    _option("temperature", 0.0,
            "0 takes the likeliest word, exactly; 1 samples the model's "
            "distribution.", fields_lib.number(0, 1e38)),
    _option("top_k", None,
            "Keeps only this many of the likeliest words.",
            fields_lib.optional(fields_lib.integer(1))),
    _option("top_p", None,
            "Keeps the fewest likeliest words whose probability reaches this.",
            fields_lib.optional(_PROBABILITY)),
    _option("soft_words", None,
            "A temperature: f reads the mean of all words' vectors, weighted "
            "by their probabilities at it, in place of the word. What is "
            "recorded are the words: that code alone gives another output.",
            _SOFT_TEMPERATURE),
    _option("soft_inputs", None,
            "A temperature: the language model reads such a mean of its own "
            "vectors, in place of the word before.", _SOFT_TEMPERATURE),
)


@dataclasses.dataclass(frozen=True)
class AutoregressivePrior(lm_prior.LmPrior):
  """p(code | image) as a product over the words, each given those before it."""
  style = "ar"

  options = {option.name: option for option in _OPTIONS}

  panel = {
      "LM, T = 0": {"temperature": 0.0, "seed": 0},
      "LM, T = 1, seed 1": {"temperature": 1.0, "seed": 1},
      "LM, T = 1, seed 2": {"temperature": 1.0, "seed": 2},
  }

  @property
  def given_note(self):
    if not self.lm.autoregressive:
      return "The words that follow know nothing of the fixed ones."
    return ("This prior draws word by word: a word knows the fixed ones before "
            "it, row by row, and not those behind it.")

  @classmethod
  def from_fields(cls, model_fields, where):
    fields_lib.check_fields(cls.known_fields(), model_fields, where)
    return cls(lm_prior.make_lm(model_fields, where))

  @classmethod
  def known_fields(cls):
    return fields_lib.fields_of(lm_lib.LM)

  def loss(self, params, image, code, rngs_B=None):
    del rngs_B
    nll_BL = self.word_nll(params, image, code)
    return jnp.mean(nll_BL, axis=1), {}

  def word_nll(self, params: PyTree, image, code):
    """Negative log-likelihood of each word in nats, f32 [B, L · R]."""
    # Word 0 of the vocabulary starts a sequence.
    text_BL = self.as_sequence(code) + 1
    ctx = self.see(params, image)

    def nll_of(ctx, text_BL):
      return self._word_nll(params, ctx, text_BL)

    return self.in_halves(nll_of, ctx, text_BL)

  def _word_nll(self, params, ctx, text_BL):
    variables = {"params": lm_prior.lm_params(params)}
    logits_BLV = self.lm.apply(variables, ctx, text_BL)
    # That loss expects an axis of pixels; a place of the code has one "pixel".
    nll_BL1 = losses.softmax_cross_entropy(
        logits_BLV[..., None], text_BL[..., None])
    return nll_BL1[..., 0]

  def metrics(self, nll_B):
    # Of a whole code: codes of other lengths can be compared by it.
    nats_B = nll_B * self.lm.seq_len
    return super().metrics(nll_B) | {"nats_per_code": nats_B}

  def sample(
      self, params, image, seeds_B, *, num_samples=1, given=None,
      codewords=None, soft_words=None, soft_inputs=None, **options):
    self.check_options({
        **options, "soft_words": soft_words, "soft_inputs": soft_inputs})
    self._check_top_k(options.get("top_k"))
    self._check_reads_words(soft_inputs)
    base.check_num_samples(num_samples)
    self.check_given(given, len(seeds_B))
    if given is not None:
      given = self.as_sequence(given)
    ctx = self.see(params, image)
    soft = SoftWords(soft_words, soft_inputs, codewords)
    samples = sampling.sample(
        self.lm, lm_prior.lm_params(params), ctx, seeds_B, given=given,
        num_samples=num_samples, soft=soft, **options)
    return self.as_samples(samples)

  def _check_top_k(self, top_k):
    # The options of the class do not know how many words this network has.
    num_words = self.lm.vocab_size - 1
    if top_k is not None and top_k > num_words:
      raise ConfigError(f"top_k = {top_k!r}; must be None or an integer in "
                        f"1..{num_words} (dict_size).")

  def _check_reads_words(self, soft_inputs):
    if soft_inputs is not None and not self.lm.autoregressive:
      raise ConfigError(f"soft_inputs = {soft_inputs!r}; a model with "
                        "autoregressive = False reads no words.")

  def log_prob(self, params, image, code):
    variables = {"params": lm_prior.lm_params(params)}
    ctx = self.see(params, image)
    text_BL = self.as_sequence(code) + 1
    logits_BLV = self.lm.apply(variables, ctx, text_BL)
    logprob_BLV = jax.nn.log_softmax(logits_BLV)
    picked_BL1 = jnp.take_along_axis(logprob_BLV, text_BL[..., None], -1)
    # One number for each place: what all of its words have together.
    picked_BLR = picked_BL1.reshape(
        len(code), -1, self.lm.num_quantizers)
    return jnp.sum(picked_BLR, axis=-1)
