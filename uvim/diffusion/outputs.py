"""What the numbers of a network mean: the mask without noise, and a loss.

h w pixels · n bits · G groups of bits · K = 2^(n / G) classes of a group
k numbers of the network for a pixel · *b axes, such as [B, h, w]

  softmax  scores of the K bit patterns of each group
  sigmoid  a score of each bit
  x        the analog bits x_0
  eps      the noise ε
  v        √γ · ε - √(1 - γ) · x_0

Pixel weights count for those that give x_0. A loss is kept for each group of
bits, that is, for semantics and for instances.
"""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from uvim import fields
from uvim.diffusion import bits, steps
from uvim.diffusion.schedules import Level
from uvim.registry import lookup
from uvim.typing import Array, Float

Numbers = Float[Array, "*b k"]
Bits = Float[Array, "*b n"]
LossOfGroups = Float[Array, "*b G"]

# Keeps the logarithm of a probability finite.
_LEAST_PROBABILITY = 1e-8


class Target(NamedTuple):
  """What a network is trained on.

  Attributes:
    clean: x_0, analog bits.
    noise: ε.
    level: of each example, with axes of 1 for those of the bits.
    weight: of each pixel.
  """
  clean: Bits
  noise: Bits
  level: Level
  weight: Float[Array, "*b"]


@dataclasses.dataclass(frozen=True)
class Output(abc.ABC):
  """One meaning of the network's numbers.

  Attributes:
    scale: b of the analog bits.
    num_groups: G.
  """
  scale: float
  num_groups: int = 2

  # Whether pixel weights count.
  is_weighted: ClassVar[bool] = True

  def num_numbers(self, num_bits: int) -> int:
    """k, how many numbers a pixel needs."""
    return num_bits

  def clean(self, numbers: Numbers, noisy: Bits, level: Level) -> Bits:
    """x_0 in [-b, b], of the numbers for x_t."""
    numbers = numbers.astype(jnp.float32)
    clean = self._clean(numbers, noisy, level)
    return jnp.clip(clean, -self.scale, self.scale)

  def loss(self, numbers: Numbers, target: Target) -> LossOfGroups:
    """The weighted loss, a mean over the bits of a group; float32."""
    losses = self._loss(numbers.astype(jnp.float32), target)
    if self.is_weighted:
      losses = losses * target.weight[..., None]
    return losses

  @abc.abstractmethod
  def _clean(self, numbers, noisy, level):
    """x_0, not clipped."""

  @abc.abstractmethod
  def _loss(self, numbers, target):
    """The loss [*b, G] without weights."""

  def _mean_of_groups(self, values: Bits) -> LossOfGroups:
    return jnp.mean(bits.split_groups(values, self.num_groups), axis=-1)


class Softmax(Output):
  """Scores of the bit patterns of each group."""

  def num_numbers(self, num_bits):
    return self.num_groups * 2**(num_bits // self.num_groups)

  def _clean(self, numbers, noisy, level):
    del noisy, level
    return bits.expected_bits(self._scores(numbers), self.scale)

  def _loss(self, numbers, target):
    bits_of_groups = bits.split_groups(target.clean, self.num_groups)
    patterns = bits.bits_to_integers(bits_of_groups)
    return optax.softmax_cross_entropy_with_integer_labels(
        self._scores(numbers), patterns)

  def _scores(self, numbers):
    return bits.split_groups(numbers, self.num_groups)


class Sigmoid(Output):
  """A score of each bit."""

  def _clean(self, numbers, noisy, level):
    del noisy, level
    return bits.to_analog(jax.nn.sigmoid(numbers), self.scale)

  def _loss(self, numbers, target):
    signs = target.clean / self.scale
    probability = jax.nn.sigmoid(numbers * signs)
    loss_of_bits = -jnp.log(probability + _LEAST_PROBABILITY)
    return self._mean_of_groups(loss_of_bits)


class Clean(Output):
  """The analog bits themselves."""

  def _clean(self, numbers, noisy, level):
    del noisy, level
    return numbers

  def _loss(self, numbers, target):
    return self._mean_of_groups(jnp.square(target.clean - numbers))


class Noise(Output):
  """The noise."""

  is_weighted = False

  def _clean(self, numbers, noisy, level):
    return steps.clean_of_noise(noisy, numbers, level)

  def _loss(self, numbers, target):
    return self._mean_of_groups(jnp.square(target.noise - numbers))


class Velocity(Output):
  """Noise less bits, each as strong as the other is in x_t."""

  is_weighted = False

  def _clean(self, numbers, noisy, level):
    return steps.clean_of_velocity(noisy, numbers, level)

  def _loss(self, numbers, target):
    velocity = steps.velocity(target.clean, target.noise, target.level)
    return self._mean_of_groups(jnp.square(velocity - numbers))


OUTPUTS = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "x": Clean,
    "eps": Noise,
    "v": Velocity,
}
OUTPUT = fields.one_of(OUTPUTS)


def make_output(name: str, scale: float, num_groups: int = 2) -> Output:
  """The output of a name.

  Raises:
    ConfigError: another name than OUTPUT allows.
  """
  output_class = lookup(OUTPUTS, name, "output")
  return output_class(scale, num_groups)
