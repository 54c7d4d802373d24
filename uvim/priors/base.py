"""What a prior is: a distribution over guiding codes, given the image.

B images · S samples per image · L code length · H W image pixels
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.codes.base import CodeSpec
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.base import EncoderSpec
from uvim.encoders.image_encoder import Context, ImageEncoder, Seen
from uvim.registry import ConfigError
from uvim.typing import (
  Array,
  Float,
  PerExample,
  PRNGKey,
  PyTree,
  Seeds,
)

# How many codes may be drawn for an image at once.
NUM_SAMPLES = fields.integer(1, 10_000)
# Name → one number for each example.
LogsOfEach = dict[str, PerExample]


class Samples(flax.struct.PyTreeNode):
  """Codes drawn for a batch of images.

  Attributes:
    code: (B, S, *CodeSpec.shape).
    logprob: f32 [B, S, L], log-probability in nats of each word, or of all
      words of a place, under the model itself: temperature 1, nothing
      truncated. Their sum over L is the log-likelihood of a code, or of
      drawing its words in the order in which they were drawn. None where a
      prior has no likelihood.
    vectors: f32 [B, S, L, E], what f reads in place of the code's own vectors;
      None: it reads those. See `uvim.priors.soft_words`.
    passes: int32 [B, S], how many passes of the network drew the code, where a
      pass may draw several words; else None. See `uvim.priors.several_words`.
  """
  code: Array
  logprob: Array | None
  vectors: Array | None = None
  passes: Array | None = None


class Prior(abc.ABC):
  """Predicts the oracle's guiding code from the image.

  Subclasses are frozen dataclasses: static and hashable. They hold no arrays.

  Attributes:
    options: what `sample` can be told, by name, with defaults and ranges. The
      command line, the explorer and the evaluators read them from here.
    input_size: height and width in pixels of the image it sees.
    image_encoder: what it sees the image with; None: its own layers.
    panel: title → options and seed of the samples that a run's panels show.
    given_note: what drawn words know of given ones, in a sentence for users;
      "": it takes no given words.
  """

  input_size: tuple[int, int]
  image_encoder: ImageEncoder | None = None
  options: ClassVar[Mapping[str, fields.Field]] = {}
  panel: ClassVar[Mapping[str, Mapping[str, Any]]] = {
      "LM, seed 0": {"seed": 0}, "LM, seed 1": {"seed": 1}}
  given_note: str = ""

  # How a config describes it, and with which codes it can work.

  @classmethod
  @abc.abstractmethod
  def from_fields(cls, model_fields: Mapping[str, Any], where: str) -> "Prior":
    """Builds the prior from a block of fields; see `make_prior`."""

  @classmethod
  def known_fields(cls) -> dict[str, fields.Field]:
    """The fields that such a block may have, by name; `style` left out.

    docs/configs.md and tools.show_config list them.
    """
    return {}

  @property
  def encoder_specs(self) -> dict[str, EncoderSpec]:
    """The image encoders that pretrained weights may fill.

    The key is the part of the parameters where the encoder stands.
    """
    return {}

  @abc.abstractmethod
  def check_code(self, spec: CodeSpec, where: str) -> None:
    """Raises a ConfigError if the prior cannot predict such codes."""

  def see(self, params: PyTree, image: Seen) -> Context:
    """Runs the image encoder, if there is one and it has not run.

    The other methods do so themselves, and take the result as an image, too.
    """
    return image_encoder_lib.see(self.image_encoder, params, image)

  # Learning.

  @abc.abstractmethod
  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh parameters; traceable."""

  @abc.abstractmethod
  def loss(
      self,
      params: PyTree,
      image: Seen,
      code: Array,
      rngs_B: PRNGKey | None = None,
  ) -> tuple[PerExample, LogsOfEach]:
    """Negative log-likelihood of each code, in nats per word.

    Args:
      params: the parameters.
      image: in [-1, 1], or a Context with the features of it.
      code: the oracle's.
      rngs_B: a key per example in training; None in evaluation.

    Returns:
      The loss and what else to log, of each example.
    """

  def metrics(self, nll_B: PerExample) -> LogsOfEach:
    """What evaluation reports of the loss, by name, besides `loss`."""
    bits_B = nll_B / jnp.log(2.0)
    return {"bits_per_codeword": bits_B}

  # Predicting.

  @abc.abstractmethod
  def sample(
      self,
      params: PyTree,
      image: Seen,
      seeds_B: Seeds,
      *,
      num_samples: int = 1,
      given: Array | None = None,
      codewords: Float[Array, "Q E"] | None = None,
      **options: Any,
  ) -> Samples:
    """Draws codes.

    Args:
      params: the parameters.
      image: in [-1, 1].
      seeds_B: one integer per image. The samples of an image follow from its
        pixels, its seed and the options alone, whatever the batch.
      num_samples: S.
      given: words that are fixed, of the shape of a batch of codes; -1 where
        the prior is free. None: it is free everywhere.
      codewords: the vectors that the words stand for. They are given only with
        the option `soft_words`, so a prior without it need not know them.
      **options: of `options`.

    Raises:
      ConfigError: an option out of its range; given words that this prior
        cannot take.
    """

  def log_prob(
      self,
      params: PyTree,
      image: Seen,
      code: Array,
  ) -> Float[Array, "B L"] | None:
    """Log-probability in nats of any code, place by place; None if unknown."""
    del params, image, code
    return None

  def check_options(self, given: Mapping[str, Any]) -> None:
    """Raises a ConfigError for an unknown option or a value out of range."""
    for name, value in given.items():
      if name not in self.options:
        known = ", ".join(self.options) or "none"
        raise ConfigError(
            f"{name} = {value!r}; this prior has no such option. It has: "
            f"{known}.")
      check = self.options[name].check
      if check is not None and not check.fits(value):
        raise ConfigError(f"{name} = {value!r}; must be {check.allowed}.")


def keep_given(code: Array, given: Array | None) -> Array:
  """The words that are given, and those of `code` where `given` is -1."""
  if given is None:
    return code
  return jnp.where(given >= 0, given, code)


def check_num_samples(num_samples: Any) -> None:
  """Raises a ConfigError if that is no number of samples."""
  check = NUM_SAMPLES
  if not check.fits(num_samples):
    raise ConfigError(f"num_samples = {num_samples!r}; must be "
                      f"{check.allowed}.")


def check_seed(seed: Any) -> None:
  """Raises a ConfigError for a seed that JAX would cut to another one."""
  if not fields.SEED.fits(seed):
    raise ConfigError(f"seed = {seed!r}; must be {fields.SEED.allowed}.")


def example_seeds(ids_B: Seeds, seed: Any) -> Array:
  """One uint32 seed per image from its id (low 32 bits) and a run's seed.

  Raises:
    ConfigError: a seed of Python or numpy out of range; arrays go unchecked.
  """
  if not isinstance(seed, jax.Array):
    check_seed(seed)
  ids_B = jnp.asarray(ids_B).astype(jnp.uint32)
  run_key = jax.random.key(seed)

  def seed_of(image_id):
    # Folded in, not added: image 1 of seed 2 is not image 2 of seed 1.
    image_key = jax.random.fold_in(run_key, image_id)
    return jax.random.bits(image_key)

  return jax.vmap(seed_of)(ids_B)
