"""A prior for codes of real numbers: GIVT.

B images · S samples · L code length · E numbers of a code vector

The language model reads the vectors so far and describes the density of the
next one, a mixture of Gaussians. Nothing is rounded to words of a codebook.

Source: Tschannen, Eastwood, Mentzer 2023, "GIVT: Generative Infinite-Vocabulary
Transformers" (arXiv:2312.02116), and its released code, whose names fields and
options have.
"""

import dataclasses

import jax.numpy as jnp

from uvim import fields as fields_lib
from uvim.fields import Field
from uvim.priors import base, givt_network, givt_sampling, lm_prior
from uvim.priors import lm as lm_lib
from uvim.priors.mixtures import MixtureForm
from uvim.registry import ConfigError
from uvim.typing import Array, Float, PyTree

# Defaults: as published for depth.
_OPTIONS = (
    Field("temp", 0.9,
          "Multiplies all scales. 0 takes the means of the likeliest "
          "components, exactly; 1 samples the model's distribution.",
          check=fields_lib.number(0, 1e6)),
    Field("temp_probs", 1.0,
          "Multiplies the logits of the components; more than 1 prefers the "
          "likeliest one.", check=fields_lib.number(0, 1e6)),
    Field("beam_size", 2,
          "How many codes are kept while one is drawn; the likeliest is the "
          "answer.", check=fields_lib.integer(1, 64)),
    Field("fan_size", 8,
          "How many vectors each of them tries at a place.",
          check=fields_lib.integer(1, 1024)),
)


@dataclasses.dataclass(frozen=True)
class GivtPrior(lm_prior.LmPrior):
  """p(code | image) as a product over the vectors, each given those before it.

  Attributes:
    form: how the network's numbers describe a density.
  """
  form: MixtureForm = dataclasses.field(kw_only=True)

  style = "givt"

  options = {option.name: option for option in _OPTIONS}

  panel = {
      "LM, temp = 0": {"temp": 0.0, "seed": 0},
      "LM, seed 1": {"seed": 1},
      "LM, seed 2": {"seed": 2},
  }

  @classmethod
  def from_fields(cls, model_fields, where):
    fields_lib.check_fields(cls.known_fields(), model_fields, where)
    of_form, of_lm = lm_prior.take_fields(model_fields, MixtureForm)
    form = MixtureForm(**of_form)
    lm = lm_prior.make_lm(
        dict(of_lm, vocab_size=form.num_logits, vector_dim=form.out_dim),
        where, givt_network.VectorLM)
    if lm.posemb_type != "learn":
      raise ConfigError(f"{where}.posemb_type = {lm.posemb_type!r}; with style "
                        "= 'givt' it must be 'learn'.")
    return cls(lm, form=form)

  @classmethod
  def known_fields(cls):
    of_lm = fields_lib.fields_of(lm_lib.LM)
    for name in givt_network.FIELDS_OF_WORDS:
      del of_lm[name]
    return of_lm | fields_lib.fields_of(MixtureForm)

  def check_code(self, spec, where):
    if spec.is_discrete:
      raise ConfigError(
          f"{where}.style = 'givt' predicts real numbers; the oracle's code is "
          "made of words. It needs an oracle with quantizer 'gaussian'.")
    wanted = {"out_dim": (self.form.out_dim, spec.vector_dim, "codeword_dim"),
              "seq_len": (self.lm.seq_len, spec.length, "code_len")}
    for name, (found, value, reason) in wanted.items():
      if found != value:
        raise ConfigError(
            f"{where}.{name} = {found}, but the oracle's code needs {value} "
            f"({reason}).")

  # ── Learning ────────────────────────────────────────────────────────────

  def loss(self, params, image, code, rngs_B=None):
    """Negative log-density in nats per number of the code.

    It is less than 0 where the model is sure, and not comparable with bits of
    words.
    """
    del rngs_B
    ctx = self.see(params, image)

    def logprob_of(ctx, code):
      return self.log_prob(params, ctx, code)

    logprob_BL = self.in_halves(logprob_of, ctx, code)
    return -jnp.mean(logprob_BL, axis=1) / self.form.out_dim, {}

  def metrics(self, nll_B):
    # Densities have no bits per word.
    del nll_B
    return {}

  def log_prob(
      self, params: PyTree, image, code: Float[Array, "B L E"],
  ) -> Float[Array, "B L"]:
    """Log-density in nats of each vector, given those before it."""
    variables = {"params": lm_prior.lm_params(params)}
    ctx = self.see(params, image)
    logits_BLV = self.lm.apply(variables, ctx, code)
    return self.form.density(logits_BLV).log_prob_of_place(code)

  # ── Predicting ──────────────────────────────────────────────────────────

  def sample(
      self, params, image, seeds_B, *, num_samples=1, given=None, **options):
    self.check_options(options)
    base.check_num_samples(num_samples)
    if given is not None:
      raise ConfigError("given: only words can be given; this prior predicts "
                        "real numbers.")
    defaults = {name: option.default for name, option in self.options.items()}
    ctx = self.see(params, image)
    return givt_sampling.sample(
        self.lm, self.form, lm_prior.lm_params(params), ctx, seeds_B,
        num_samples=num_samples, **(defaults | options))
