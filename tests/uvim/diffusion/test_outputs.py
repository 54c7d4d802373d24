"""What the network's numbers mean, and their loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim.diffusion import bits, outputs, schedules, steps
from uvim.registry import ConfigError

SCALE = 0.1
NUM_BITS = 8


@pytest.fixture(scope="module")
def target():
  labels = jax.random.randint(jax.random.key(0), (2, 3, 4, 2), 0, 16)
  clean = bits.encode_map(labels, NUM_BITS, SCALE)
  noise = jax.random.normal(jax.random.key(1), clean.shape)
  level = schedules.level_at(jnp.full((2, 1, 1, 1), 0.5), "cosine")
  weight = jax.random.uniform(jax.random.key(2), (2, 3, 4))
  return outputs.Target(clean, noise, level, weight)


def perfect_numbers(name, target):
  """What a network would give that knows all."""
  if name == "softmax":
    grouped = target.clean.reshape(2, 3, 4, 2, 4)
    patterns = bits.bits_to_integers(grouped)
    scores = 60.0 * jax.nn.one_hot(patterns, 16)
    return scores.reshape(2, 3, 4, 32)
  return {
      "sigmoid": 600 * target.clean,
      "x": target.clean,
      "eps": target.noise,
      "v": steps.velocity(target.clean, target.noise, target.level),
  }[name]


@pytest.mark.parametrize("name", outputs.OUTPUTS)
def test_who_knows_all_has_no_loss_and_the_clean_bits(name, target):
  output = outputs.make_output(name, SCALE)
  numbers = perfect_numbers(name, target)
  assert numbers.shape[-1] == output.num_numbers(NUM_BITS)
  loss = jax.jit(output.loss)(numbers, target)
  assert loss.shape == (2, 3, 4, 2)
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  noisy = steps.corrupt(target.clean, target.noise, target.level)
  to_clean = jax.jit(output.clean)
  clean = to_clean(numbers, noisy, target.level)
  np.testing.assert_allclose(clean, target.clean, atol=1e-5)
  # A prediction that is far off stays within the bits.
  far = to_clean(numbers + 100.0, noisy, target.level)
  assert np.abs(far).max() <= SCALE * 1.000001


def test_each_group_has_its_own_loss(target):
  output = outputs.make_output("x", SCALE)
  wrong = target.clean.at[..., NUM_BITS // 2:].add(1.0)
  loss = jax.jit(output.loss)(wrong, target)
  np.testing.assert_allclose(loss[..., 0], 0, atol=1e-6)
  np.testing.assert_allclose(loss[..., 1], target.weight, rtol=1e-5)


def test_an_untrained_softmax_has_the_loss_of_a_guess(target):
  output = outputs.make_output("softmax", SCALE)
  alike = target._replace(weight=jnp.ones((2, 3, 4)))
  loss = jax.jit(output.loss)(jnp.zeros((2, 3, 4, 32)), alike)
  np.testing.assert_allclose(loss, np.log(16), rtol=1e-6)


def test_another_name_is_an_error():
  with pytest.raises(ConfigError, match="output 'y'"):
    outputs.make_output("y", SCALE)
