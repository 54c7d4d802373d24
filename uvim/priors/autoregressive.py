"""The paper's prior: an encoder–decoder language model, word by word.

B images · S samples · L code length · R words of a place, mostly 1
V = Q + 1 vocabulary: word 0 starts a sequence, word i + 1 is codeword i

Source: paper, "Experimental setup for stage II" and "Sampling from LM at test
time".
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from uvim import fields as fields_lib
from uvim.nn import losses
from uvim.priors import base, lm_prior, sampling
from uvim.priors import draft as draft_lib
from uvim.priors import lm as lm_lib
from uvim.priors import several_words as several_words_lib
from uvim.priors.draft import DraftNetwork
from uvim.priors.several_words import SeveralWords
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
  """p(code | image) as a product over the words, each given those before it.

  Attributes:
    several_words: how many words a pass of sampling draws.
  """
  several_words: SeveralWords = SeveralWords()

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
    own_fields, of_lm = lm_prior.take_fields(model_fields, SeveralWords)
    lm = lm_prior.make_lm(of_lm, where)
    several = SeveralWords(**own_fields)
    several_words_lib.check(several, lm.autoregressive, where)
    return cls(lm, several_words=several)

  @classmethod
  def known_fields(cls):
    of_lm = fields_lib.fields_of(lm_lib.LM)
    return of_lm | fields_lib.fields_of(SeveralWords)

  @property
  def draft(self) -> DraftNetwork | None:
    """The network that guesses words, if there is one."""
    width = self.several_words.draft
    if width is None:
      return None
    return draft_lib.make_network(self.lm, width)

  def init(self, rng):
    params = super().init(rng)
    if self.draft is not None:
      # A key of its own: the other numbers are those of a model without one.
      draft_rng = jax.random.fold_in(rng, 1)
      draft_params = draft_lib.init(self.draft, self.lm, draft_rng)
      params = {**params, draft_lib.NAME: draft_params}
    return params

  def loss(self, params, image, code, rngs_B=None):
    del rngs_B
    if self.draft is not None:
      return self._loss_with_draft(params, image, code)
    nll_BL = self.word_nll(params, image, code)
    return jnp.mean(nll_BL, axis=1), {}

  def _loss_with_draft(self, params, image, code):
    """The loss of the language model, whose gradient teaches the draft too."""
    nll_BL, draft_nll_BL = self._of_sequences(
        self._both_nll, params, image, code)
    draft_nll_B = jnp.mean(draft_nll_BL, axis=1)
    # Zeros, with the gradient of the draft's loss: runs with and without a
    # draft log the same quantity.
    only_gradient_B = draft_nll_B - jax.lax.stop_gradient(draft_nll_B)
    loss_B = jnp.mean(nll_BL, axis=1) + only_gradient_B
    return loss_B, {"draft_nll": draft_nll_B}

  def _both_nll(self, params, ctx, text_BL):
    """Of each word under the language model, and under the draft."""
    variables = {"params": lm_prior.lm_params(params)}

    def read(lm, ctx, text_BL):
      encoded_BND = lm.encode(ctx)
      logits_BLV = lm.logits(encoded_BND, text_BL)
      return logits_BLV, encoded_BND, lm.places(encoded_BND)

    logits_BLV, *seen = self.lm.apply(variables, ctx, text_BL, method=read)
    # The draft must not change what the language model learns.
    encoded_BND, places = jax.lax.stop_gradient(seen)
    draft_logits_BLV = self.draft.apply(
        {"params": params[draft_lib.NAME]}, encoded_BND, text_BL, places)
    return _nll(logits_BLV, text_BL), _nll(draft_logits_BLV, text_BL)

  def word_nll(self, params: PyTree, image, code):
    """Negative log-likelihood of each word in nats, f32 [B, L · R]."""
    return self._of_sequences(self._word_nll, params, image, code)

  def _of_sequences(self, nll_of, params, image, code):
    """What `nll_of(params, ctx, text_BL)` gives for images and codes."""
    # Word 0 of the vocabulary starts a sequence.
    text_BL = self.as_sequence(code) + 1
    ctx = self.see(params, image)
    return self.in_halves(functools.partial(nll_of, params), ctx, text_BL)

  def _word_nll(self, params, ctx, text_BL):
    variables = {"params": lm_prior.lm_params(params)}
    logits_BLV = self.lm.apply(variables, ctx, text_BL)
    return _nll(logits_BLV, text_BL)

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
    num_rows = len(seeds_B) * num_samples
    samples = sampling.sample(
        self.lm, lm_prior.lm_params(params), ctx, seeds_B, given=given,
        num_samples=num_samples, soft=soft,
        words_per_pass=self._words_per_pass(num_rows, soft_inputs),
        draft=self.draft, draft_params=params.get(draft_lib.NAME), **options)
    return self.as_samples(samples)

  def _words_per_pass(self, num_rows, soft_inputs):
    """How many words a pass tries."""
    chosen = self.several_words.words_per_pass
    if soft_inputs is not None:
      # Behind a word stands the mean of all words' vectors, which no guess
      # can be.
      if chosen not in (None, 1):
        raise ConfigError(
            f"soft_inputs = {soft_inputs!r}; with config.model.words_per_pass "
            f"= {chosen} it must be None.")
      return 1
    if not self.lm.autoregressive:
      return 1
    if chosen is None:
      chosen = several_words_lib.default_words_per_pass(num_rows)
    return min(chosen, self.lm.seq_len)

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


def _nll(logits_BLV, text_BL):
  """Negative log-likelihood of each word in nats, f32 [B, L]."""
  # That loss expects an axis of pixels; a place of the code has one "pixel".
  nll_BL1 = losses.softmax_cross_entropy(
      logits_BLV[..., None], text_BL[..., None])
  return nll_BL1[..., 0]
