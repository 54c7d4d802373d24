"""A loss for a few rows at a time."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from uvim.diffusion import rows

HEIGHT, WIDTH, CLASSES = 8, 4, 64


def loss_of_rows(kernel, arrays):
  features, labels = arrays
  scores = jax.nn.log_softmax(features @ kernel)
  picked = jnp.take_along_axis(scores, labels[..., None], axis=-1)
  return -jnp.mean(picked, axis=(1, 2, 3))


def test_chunks_change_neither_loss_nor_gradient():
  keys = jax.random.split(jax.random.key(0), 3)
  kernel = jax.random.normal(keys[0], (5, CLASSES))
  features = jax.random.normal(keys[1], (2, HEIGHT, WIDTH, 5))
  labels = jax.random.randint(keys[2], (2, HEIGHT, WIDTH), 0, CLASSES)

  def total(chunks):
    def loss(kernel, features):
      loss_B = rows.mean_by_rows(
          loss_of_rows, kernel, (features, labels), chunks)
      return jnp.sum(loss_B * jnp.array([1.0, 3.0]))
    return jax.value_and_grad(loss, (0, 1))

  whole = jax.jit(total(1))(kernel, features)
  parts = jax.jit(total(4))(kernel, features)
  for one, other in zip(
      jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

  def largest(chunks):
    program = str(jax.make_jaxpr(total(chunks))(kernel, features))
    shapes = re.findall(r"f32\[([\d,]+)\]", program)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)

  num_scores = 2 * HEIGHT * WIDTH * CLASSES
  assert largest(1) == num_scores
  assert largest(4) == num_scores // 4


def test_as_many_chunks_as_the_limit_asks_for():
  # Eight devices share a batch, where there are so many.
  size = rows.num_chunks(16, (HEIGHT, WIDTH), CLASSES, max_numbers=2**40)
  assert size == 1
  assert rows.num_chunks(16, (HEIGHT, WIDTH), CLASSES, max_numbers=1) == HEIGHT
