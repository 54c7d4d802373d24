"""The paper's prior: an encoder–decoder language model, word by word.

B images · S samples · L code length · V = Q + 1 vocabulary: word 0 starts a
sequence, word i + 1 is codeword i

Source: paper, "Experimental setup for stage II" and "Sampling from LM at test
time".
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from uvim import fields as fields_lib
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.base import EncoderSpec
from uvim.encoders.image_encoder import Context
from uvim.learn import sharding
from uvim.nn import losses
from uvim.priors import base, sampling
from uvim.priors import lm as lm_lib
from uvim.registry import ConfigError
from uvim.typing import PRNGKey, PyTree

# On a CPU, a batch whose encoder tokens have at least this many numbers is
# computed in two halves.
SPLIT_FROM = 2**18


def _is_probability(value):
  return fields_lib.is_number(value) and 0 < value <= 1


_PROBABILITY = fields_lib.Check("a number in (0, 1]", _is_probability)


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
)


@dataclasses.dataclass(frozen=True)
class AutoregressivePrior(base.Prior):
  """p(code | image) as a product over the words, each given those before it.

  Attributes:
    lm: the network.
    split_from: see SPLIT_FROM.
  """
  lm: lm_lib.LM
  split_from: int = SPLIT_FROM

  options = {option.name: option for option in _OPTIONS}

  panel = {
      "LM, T = 0": {"temperature": 0.0, "seed": 0},
      "LM, T = 1, seed 1": {"temperature": 1.0, "seed": 1},
      "LM, T = 1, seed 2": {"temperature": 1.0, "seed": 2},
  }

  @classmethod
  def from_fields(cls, model_fields, where):
    fields_lib.check_fields(cls.known_fields(), model_fields, where)
    values = {name: fields_lib.hashable(value)
              for name, value in model_fields.items()}
    values["image_encoder"] = image_encoder_lib.make(
        model_fields.get("image_encoder"), f"{where}.image_encoder")
    lm = lm_lib.LM(**values)
    lm_lib.check_lm(lm)
    return cls(lm)

  @classmethod
  def known_fields(cls):
    return fields_lib.fields_of(lm_lib.LM)

  @property
  def input_size(self):
    if self.image_encoder:
      return self.image_encoder.input_size
    return tuple(self.lm.input_size)

  @property
  def image_encoder(self):
    return self.lm.image_encoder

  @property
  def encoder_specs(self):
    lm = self.lm
    if self.image_encoder:
      return {image_encoder_lib.NAME: self.image_encoder.spec}
    learns_positions = lm.posemb_type == "learn"
    grid = lm.grid_size if learns_positions else None
    return {"encoder": EncoderSpec(lm.encoder_style, lm.num_heads, grid)}

  def check_code(self, spec, where):
    if not spec.is_discrete or spec.words_per_place != 1:
      raise ConfigError(f"{where}.style = 'ar' predicts one word for each "
                        "place; the oracle's code is made otherwise.")
    # One more word than the codebook has: the start word.
    wanted = {"vocab_size": spec.num_words + 1, "seq_len": spec.length}
    for name, value in wanted.items():
      found = getattr(self.lm, name)
      if found != value:
        raise ConfigError(
            f"{where}.{name} = {found}, but the oracle's code needs {value} "
            "(dict_size + 1, code_len).")

  def init(self, rng):
    params = init_lm(self.lm, rng)
    if self.image_encoder:
      # A key of its own: the other numbers are those of a model without one.
      encoder_rng = jax.random.fold_in(rng, 0)
      encoder_params = self.image_encoder.init(encoder_rng)
      params = {**params, image_encoder_lib.NAME: encoder_params}
    return params

  def loss(self, params, image, code, rngs_B=None):
    del rngs_B
    nll_BL = self.word_nll(params, image, code)
    return jnp.mean(nll_BL, axis=1), {}

  def word_nll(self, params: PyTree, image, code):
    """Negative log-likelihood of each word in nats, f32 [B, L]."""
    # Word 0 of the vocabulary starts a sequence.
    text_BL = code + 1
    ctx = self.see(params, image)
    if not self.is_split(len(text_BL)):
      return self._word_nll(params, ctx, text_BL)
    first_ctx, second_ctx = _halves(ctx)
    first_text, second_text = _halves(text_BL)
    halves = [
        self._word_nll(params, first_ctx, first_text),
        self._word_nll(params, second_ctx, second_text),
    ]
    return jnp.concatenate(halves)

  def _word_nll(self, params, ctx, text_BL):
    variables = {"params": _lm_params(params)}
    logits_BLV = self.lm.apply(variables, ctx, text_BL)
    # That loss expects an axis of pixels; a place of the code has one "pixel".
    nll_BL1 = losses.softmax_cross_entropy(
        logits_BLV[..., None], text_BL[..., None])
    return nll_BL1[..., 0]

  def is_split(self, batch_size: int) -> bool:
    """Whether a second core would idle, so that half of the batch is for it.

    On a CPU, products of many small matrices, norms and copies run on one core
    while the other waits. Two halves that share only the parameters run side
    by side. Devices that share a batch would have to exchange it instead.
    """
    if jax.default_backend() != "cpu" or batch_size % 2:
      return False
    num_tokens = batch_size * math.prod(self.lm.grid_size)
    num_numbers = num_tokens * self.lm.emb_dim
    is_large = num_numbers >= self.split_from
    return is_large and sharding.num_data_devices() == 1

  def sample(
      self, params, image, seeds_B, *, num_samples=1, given=None, **options):
    self.check_options(options)
    self._check_top_k(options.get("top_k"))
    base.check_num_samples(num_samples)
    ctx = self.see(params, image)
    return sampling.sample(
        self.lm, _lm_params(params), ctx, seeds_B, given=given,
        num_samples=num_samples, **options)

  def _check_top_k(self, top_k):
    # The options of the class do not know how many words this network has.
    num_words = self.lm.vocab_size - 1
    if top_k is not None and top_k > num_words:
      raise ConfigError(f"top_k = {top_k!r}; must be None or an integer in "
                        f"1..{num_words} (dict_size).")

  def log_prob(self, params, image, code):
    variables = {"params": _lm_params(params)}
    ctx = self.see(params, image)
    logits_BLV = self.lm.apply(variables, ctx, code + 1)
    logprob_BLV = jax.nn.log_softmax(logits_BLV)
    word_BL1 = code[..., None] + 1
    picked_BL1 = jnp.take_along_axis(logprob_BLV, word_BL1, -1)
    return picked_BL1[..., 0]


def _lm_params(params):
  """The parameters without those of the image encoder."""
  params = dict(params)
  params.pop(image_encoder_lib.NAME, None)
  return params


def _halves(batch):
  """The two halves of a batch, a tree of arrays."""
  # `split`, not slices: the gradient of a slice is padded to the whole batch.
  halves = [jnp.split(x, 2) for x in jax.tree.leaves(batch)]
  structure = jax.tree.structure(batch)
  first = structure.unflatten([half for half, _ in halves])
  second = structure.unflatten([half for _, half in halves])
  return first, second


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def init_lm(lm: lm_lib.LM, rng: PRNGKey) -> PyTree:
  """Fresh float32 parameters. Under `jax.eval_shape`: their shapes, free."""
  height, width = lm.input_size
  ctx = Context(image=jnp.zeros((1, height, width, 3)))
  if lm.image_encoder:
    features_shape = (1, *lm.image_encoder.features_shape)
    ctx = ctx.replace(features=jnp.zeros(features_shape))
  text_BL = jnp.zeros((1, lm.seq_len), jnp.int32)
  return lm.init(rng, ctx, text_BL)["params"]
