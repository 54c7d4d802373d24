"""What the priors share that are made of the language model.

B images · S samples · L places of a code · R words of a place
V = Q + 1 vocabulary: word 0 is no word of a code, word i + 1 is codeword i

The network reads and predicts sequences. A code of several words a place is
laid out place by place: first all words of the first place.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from uvim import fields as fields_lib
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.base import EncoderSpec
from uvim.encoders.image_encoder import Context
from uvim.learn import sharding
from uvim.priors import base, draft
from uvim.priors import lm as lm_lib
from uvim.registry import ConfigError
from uvim.typing import Array, PRNGKey, PyTree, Words

# On a CPU, a batch whose encoder tokens have at least this many numbers is
# computed in two halves.
SPLIT_FROM = 2**18
# What sizes must be, in fields of the oracle.
_REASONS = {
    "num_quantizers": "num_quantizers; 1 if it has none",
    "vocab_size": "dict_size + 1",
    "seq_len": "code_len, times num_quantizers if it has some",
}


@dataclasses.dataclass(frozen=True)
class LmPrior(base.Prior):
  """A prior whose network is an `LM`. All have the same parameters.

  Attributes:
    lm: the network.
    split_from: see SPLIT_FROM.
    style: its key in PRIORS, for messages.
  """
  lm: lm_lib.LM
  split_from: int = SPLIT_FROM
  style: ClassVar[str]

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
    if not spec.is_discrete:
      raise ConfigError(f"{where}.style = {self.style!r} predicts words; the "
                        "oracle's code has none.")
    wanted = {
        "num_quantizers": spec.words_per_place,
        # One more word than the codebook has: word 0.
        "vocab_size": spec.num_words + 1,
        "seq_len": spec.length * spec.words_per_place,
    }
    for name, value in wanted.items():
      found = getattr(self.lm, name)
      if found != value:
        raise ConfigError(
            f"{where}.{name} = {found}, but the oracle's code needs {value} "
            f"({_REASONS[name]}).")

  def init(self, rng):
    params = init_lm(self.lm, rng)
    if self.image_encoder:
      # A key of its own: the other numbers are those of a model without one.
      encoder_rng = jax.random.fold_in(rng, 0)
      encoder_params = self.image_encoder.init(encoder_rng)
      params = {**params, image_encoder_lib.NAME: encoder_params}
    return params

  def in_halves(
      self,
      function: Callable[..., PyTree],
      *batch: PyTree,
  ) -> PyTree:
    """`function(*batch)`, in two halves where that is quicker.

    Args:
      function: computes each example by itself; gives arrays [B, …].
      *batch: trees of arrays [B, …].
    """
    first_leaf = jax.tree.leaves(batch)[0]
    if not self.is_split(len(first_leaf)):
      return function(*batch)
    first, second = _halves(batch)
    return jax.tree.map(_join, function(*first), function(*second))

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

  def as_sequence(self, code: Array) -> Words:
    """The words of codes [B, L] or [B, L, R], place by place: [B, L · R]."""
    return code.reshape(len(code), self.lm.seq_len)

  def as_samples(self, samples: base.Samples) -> base.Samples:
    """Samples of codes from samples of sequences, [B, S, L · R]."""
    if self.lm.num_quantizers == 1:
      return samples
    num_images, num_samples, _ = samples.code.shape
    shape_BSLR = (num_images, num_samples, -1, self.lm.num_quantizers)
    logprob_BSLR = samples.logprob.reshape(shape_BSLR)
    return samples.replace(
        code=samples.code.reshape(shape_BSLR),
        logprob=jnp.sum(logprob_BSLR, axis=-1))

  def check_given(self, given: Words | None, num_images: int) -> None:
    """Raises a ConfigError for fixed words that no code of this prior has."""
    # Under jit only the shape is known.
    if given is None:
      return
    num_quantizers = self.lm.num_quantizers
    wanted = (num_images, self.lm.seq_len // num_quantizers)
    if num_quantizers > 1:
      wanted += (num_quantizers,)
    if np.shape(given) != wanted:
      raise ConfigError(f"given has the shape {np.shape(given)}; must be "
                        f"{wanted}: images, words of a code.")
    if isinstance(given, jax.core.Tracer):
      return
    given = np.asarray(given)
    num_words = self.lm.vocab_size - 1
    is_integer = np.issubdtype(given.dtype, np.integer)
    if not is_integer or given.min() < -1 or given.max() >= num_words:
      raise ConfigError(
          f"given has {given.dtype} from {given.min()} to {given.max()}; must "
          f"be integers in 0..{num_words - 1}, or -1 where a word is free.")


def take_fields(
    model_fields: Mapping[str, Any], owner: type,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """(the fields of `owner`, the others) of a block; see `fields.fields_of`."""
  own_fields = {}
  other_fields = dict(model_fields)
  for name in fields_lib.fields_of(owner):
    if name in other_fields:
      own_fields[name] = other_fields.pop(name)
  return own_fields, other_fields


def make_lm(
    model_fields: dict[str, Any],
    where: str,
    network: type[lm_lib.LM] = lm_lib.LM,
) -> lm_lib.LM:
  """The network of a block of fields, which have been checked one by one.

  Raises:
    ConfigError: sizes that do not fit each other.
  """
  values = {name: fields_lib.hashable(value)
            for name, value in model_fields.items()}
  values["image_encoder"] = image_encoder_lib.make(
      model_fields.get("image_encoder"), f"{where}.image_encoder")
  lm = network(**values)
  lm_lib.check_lm(lm)
  return lm


def lm_params(params: PyTree) -> PyTree:
  """The parameters without those of the image encoder and of the draft."""
  params = dict(params)
  params.pop(image_encoder_lib.NAME, None)
  params.pop(draft.NAME, None)
  return params


def _halves(batch):
  """The two halves of a batch, a tree of arrays."""
  # `split`, not slices: the gradient of a slice is padded to the whole batch.
  halves = [jnp.split(x, 2) for x in jax.tree.leaves(batch)]
  structure = jax.tree.structure(batch)
  first = structure.unflatten([half for half, _ in halves])
  second = structure.unflatten([half for _, half in halves])
  return first, second


def _join(first, second):
  return jnp.concatenate([first, second])


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def init_lm(lm: lm_lib.LM, rng: PRNGKey) -> PyTree:
  """Fresh float32 parameters. Under `jax.eval_shape`: their shapes, free."""
  height, width = lm.input_size
  ctx = Context(image=jnp.zeros((1, height, width, 3)))
  if lm.image_encoder:
    features_shape = (1, *lm.image_encoder.features_shape)
    ctx = ctx.replace(features=jnp.zeros(features_shape))
  return lm.init(rng, ctx, lm.example_sequence())["params"]
