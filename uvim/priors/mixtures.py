"""Densities of the vectors of a continuous code: mixtures of Gaussians.

E numbers of a vector · k components of a mixture · V numbers that a network
writes for a place

A network writes V numbers for a place of the code, and they describe a density.
Three forms of it have been published:

  per channel    each of the E numbers has a mixture of its own
  joint          one mixture, whose components have E means and scales
  multivariate   one Gaussian whose numbers depend on each other

Everything is a pure function, of any number of leading axes (`*b`).

Source: Tschannen, Eastwood, Mentzer 2023, "GIVT: Generative Infinite-Vocabulary
Transformers" (arXiv:2312.02116), and its released code, whose names the fields
have.
"""

import abc
import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

from uvim import fields
from uvim.fields import field
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Int, PRNGKey

Numbers = Float[Array, "*b V"]
Vectors = Float[Array, "*b E"]
OfEachNumber = Float[Array, "*b E"]
OfEachPlace = Float[Array, "*b"]
# Of each component, the axis of components last or before that of numbers.
Components = Float[Array, "*b k"]

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class MixtureForm:
  """How numbers describe a density; fields of `config.model`."""
  out_dim: int = field(
      doc="Numbers of a vector of the code: the oracle's `codeword_dim`.",
      source="GIVT 16", check=fields.integer(1))
  num_mixtures: int = field(
      1, doc="Components of a mixture.", source="GIVT 1",
      check=fields.integer(1, 1024))
  per_channel_mixtures: bool = field(
      True, doc="Each number of a vector has a mixture of its own. False: all "
      "share one, whose components are Gaussians of vectors.",
      source="GIVT True", check=fields.BOOL)
  multivariate: bool = field(
      False, doc="One Gaussian whose numbers depend on each other; needs "
      "`num_mixtures` 1.", source="GIVT False", check=fields.BOOL)
  scale_tol: float = field(
      1e-6, doc="The least scale of a Gaussian.", source="GIVT 1e-6",
      check=fields.POSITIVE)
  fix_square_plus: bool = field(
      True, doc="How a scale follows from a number x: (x + √(x² + 4)) / 2, "
      "which is positive. False: x + √(x² + 4) / 2, as in older files.",
      source="GIVT True", check=fields.BOOL)

  def __post_init__(self):
    if self.multivariate and self.num_mixtures != 1:
      raise ConfigError(
          f"config.model.num_mixtures = {self.num_mixtures}; with multivariate "
          "= True it must be 1.")

  @property
  def num_logits(self) -> int:
    """V."""
    size = self.out_dim
    if self.multivariate:
      return size * size + size
    if self.per_channel_mixtures:
      return 3 * self.num_mixtures * size
    return self.num_mixtures + 2 * self.num_mixtures * size

  def density(
      self,
      logits: Numbers,
      *,
      temp: float = 1.0,
      temp_probs: float = 1.0,
  ) -> "Density":
    """The density that numbers describe.

    Args:
      logits: float32, what the network wrote.
      temp: multiplies all scales: less than 1 draws nearer to the means. At 0
        there is no density.
      temp_probs: multiplies the logits of the weights: more than 1 prefers the
        likeliest component.
    """
    if self.multivariate:
      return self._multivariate(logits, temp)
    if self.per_channel_mixtures:
      return self._per_channel(logits, temp, temp_probs)
    return self._joint(logits, temp, temp_probs)

  def _per_channel(self, logits, temp, temp_probs):
    leading = logits.shape[:-1]
    # For each of three kinds of numbers and each channel, the k components.
    by_kind = logits.reshape(*leading, 3, self.out_dim, self.num_mixtures)
    weight_logits = by_kind[..., 0, :, :]
    return PerChannel(
        log_weights=jax.nn.log_softmax(weight_logits * temp_probs),
        means=by_kind[..., 1, :, :],
        scales=self._scales(by_kind[..., 2, :, :]) * temp)

  def _joint(self, logits, temp, temp_probs):
    leading = logits.shape[:-1]
    weight_logits = logits[..., :self.num_mixtures]
    others = logits[..., self.num_mixtures:]
    # Of each component the means, then the scales.
    by_component = others.reshape(*leading, self.num_mixtures, 2, self.out_dim)
    return Joint(
        log_weights=jax.nn.log_softmax(weight_logits * temp_probs),
        means=by_component[..., 0, :],
        scales=self._scales(by_component[..., 1, :]) * temp)

  def _multivariate(self, logits, temp):
    size = self.out_dim
    leading = logits.shape[:-1]
    means = logits[..., size * size:]
    squares = _square_plus(logits[..., :size * size], self.fix_square_plus)
    matrix = squares.reshape(*leading, size, size)
    # Only what lies on the diagonal divides, so only that must not be 0.
    least = jnp.broadcast_to(jnp.eye(size) * self.scale_tol, matrix.shape)
    return Multivariate(
        means=means,
        triangle=jnp.tril(jnp.maximum(matrix, least)) * temp)

  def _scales(self, numbers):
    squares = _square_plus(numbers, self.fix_square_plus)
    return jnp.maximum(squares, self.scale_tol)


def _square_plus(x: Array, fixed: bool) -> Array:
  root = jnp.sqrt(jnp.square(x) + 4)
  if fixed:
    return (x + root) / 2
  return x + root / 2


class Noise(flax.struct.PyTreeNode):
  """The random numbers behind a vector.

  Attributes:
    uniform: f32 [*b, E] in [0, 1), decides which component is drawn.
    normal: f32 [*b, E], how far a number lies from its mean.
  """
  uniform: Array
  normal: Array


def draw_noise(rng: PRNGKey, shape: tuple[int, ...]) -> Noise:
  """The random numbers of vectors of this shape, whose last axis is E."""
  component_rng, number_rng = jax.random.split(rng)
  return Noise(
      uniform=jax.random.uniform(component_rng, shape),
      normal=jax.random.normal(number_rng, shape))


class Density(flax.struct.PyTreeNode, abc.ABC):
  """A distribution of vectors."""

  @abc.abstractmethod
  def log_prob(self, x: Vectors) -> OfEachNumber | OfEachPlace:
    """Log-density in nats: of each number if they have their own, else one."""

  def log_prob_of_place(self, x: Vectors) -> OfEachPlace:
    """Log-density in nats of each vector."""
    return self.log_prob(x)

  @abc.abstractmethod
  def sample(self, noise: Noise) -> Vectors:
    """One vector for each of `*b`, which follows from the noise."""

  @abc.abstractmethod
  def mode(self) -> Vectors:
    """The means of the likeliest components."""


class PerChannel(Density):
  """Each number of a vector has a mixture of its own.

  Attributes:
    log_weights: f32 [*b, E, k].
    means: f32 [*b, E, k].
    scales: f32 [*b, E, k].
  """
  log_weights: Array
  means: Array
  scales: Array

  def log_prob(self, x):
    log_component = _log_normal(x[..., None], self.means, self.scales)
    return jax.nn.logsumexp(self.log_weights + log_component, axis=-1)

  def log_prob_of_place(self, x):
    return jnp.sum(self.log_prob(x), axis=-1)

  def sample(self, noise):
    component = _draw(self.log_weights, noise.uniform)
    means = self._of(component, self.means)
    return means + self._of(component, self.scales) * noise.normal

  def mode(self):
    likeliest = jnp.argmax(self.log_weights, axis=-1)
    return self._of(likeliest, self.means)

  def _of(self, component: Int[Array, "*b E"], values: Components):
    """The values of one component for each number."""
    chosen = jnp.take_along_axis(values, component[..., None], axis=-1)
    return chosen[..., 0]


class Joint(Density):
  """All numbers of a vector are drawn from one component.

  Attributes:
    log_weights: f32 [*b, k].
    means: f32 [*b, k, E].
    scales: f32 [*b, k, E].
  """
  log_weights: Array
  means: Array
  scales: Array

  def log_prob(self, x):
    log_number = _log_normal(x[..., None, :], self.means, self.scales)
    log_component = jnp.sum(log_number, axis=-1)
    return jax.nn.logsumexp(self.log_weights + log_component, axis=-1)

  def sample(self, noise):
    # One component for all numbers: one of the uniform numbers is enough.
    component = _draw(self.log_weights, noise.uniform[..., 0])
    means = self._of(component, self.means)
    return means + self._of(component, self.scales) * noise.normal

  def mode(self):
    likeliest = jnp.argmax(self.log_weights, axis=-1)
    return self._of(likeliest, self.means)

  def _of(self, component: Int[Array, "*b"], values: Array):
    """The values [*b, E] of one component."""
    place = component[..., None, None]
    return jnp.take_along_axis(values, place, axis=-2)[..., 0, :]


class Multivariate(Density):
  """One Gaussian with any covariance.

  Attributes:
    means: f32 [*b, E].
    triangle: f32 [*b, E, E], the lower triangle T of the covariance T · Tᵀ.
  """
  means: Array
  triangle: Array

  def log_prob(self, x):
    diagonal = jnp.diagonal(self.triangle, axis1=-2, axis2=-1)
    log_volume = jnp.sum(jnp.log(diagonal), axis=-1)
    difference = (x - self.means)[..., None]
    standard = jax.scipy.linalg.solve_triangular(
        self.triangle, difference, lower=True)[..., 0]
    log_standard = _log_normal(
        standard, jnp.zeros_like(standard), jnp.ones_like(standard))
    return jnp.sum(log_standard, axis=-1) - log_volume

  def sample(self, noise):
    # HIGHEST: accelerators would otherwise round both factors.
    return self.means + jnp.einsum(
        "...ij,...j->...i", self.triangle, noise.normal,
        precision=jax.lax.Precision.HIGHEST)

  def mode(self):
    return self.means


def _log_normal(x: Array, mean: Array, scale: Array) -> Array:
  """Log-density in nats of a Gaussian of one number."""
  standard = (x - mean) / scale
  return -0.5 * jnp.square(standard) - jnp.log(scale) - _LOG_SQRT_2PI


def _draw(log_weights: Components, uniform: OfEachPlace) -> Int[Array, "*b"]:
  """The component in whose part of [0, sum of weights) the number lies."""
  ends = jnp.cumsum(jnp.exp(log_weights), axis=-1)
  # The sum is about 1. If the number were not scaled, it could lie beyond.
  target = uniform[..., None] * ends[..., -1:]
  return jnp.sum(ends <= target, axis=-1)
