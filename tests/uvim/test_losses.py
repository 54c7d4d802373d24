"""Integer cross-entropy against plain log-softmax, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from uvim import losses


def _case(seed=0, shape=(2, 3, 5, 4)):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(rng.normal(size=shape) * 5, jnp.float32)
  ids = rng.integers(0, shape[-2], size=(*shape[:-2], shape[-1]))
  return logits, jnp.asarray(ids, jnp.int32)


def _naive(logits, ids):
  target = jax.nn.one_hot(ids, logits.shape[-2], axis=-2)
  return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-2), axis=-2)


def test_equals_one_hot_cross_entropy_in_value_and_gradient():
  logits, ids = _case()
  ids = ids.at[0, 0, 0].set(-1).at[1, 2, 3].set(5).at[1, 0, 1].set(-7)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=ids.shape))
  weight = weight.astype(jnp.float32)

  def total(f):
    return jax.value_and_grad(lambda x: jnp.sum(f(x, ids) * weight))(logits)

  # one_hot of an id out of range is all zeros: the same "unlabelled" rule.
  (ours, d_ours), (naive, d_naive) = map(
      total, (losses.softmax_cross_entropy, _naive))
  np.testing.assert_allclose(ours, naive, rtol=1e-6)
  np.testing.assert_allclose(d_ours, d_naive, atol=1e-6)


def test_unlabelled_pixels_give_zero_loss_and_zero_gradient():
  logits, ids = _case()
  bad = jnp.full_like(ids, -1).at[0].set(5)
  loss, grad = jax.value_and_grad(
      lambda x: jnp.sum(losses.softmax_cross_entropy(x, bad)))(logits)
  assert loss == 0
  assert not np.any(grad)


def test_zero_logits_cost_log_of_the_class_count():
  logits = jnp.zeros((1, 134, 2))
  loss = losses.softmax_cross_entropy(logits, jnp.zeros((1, 2), jnp.int32))
  np.testing.assert_allclose(loss, np.log(134), rtol=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.asarray([[[1e4], [-1e4], [0.0]]])
  ids = jnp.asarray([[1]])
  loss, grad = jax.value_and_grad(
      lambda x: losses.softmax_cross_entropy(x, ids).sum())(logits)
  assert loss == 2e4
  np.testing.assert_allclose(grad[0, :, 0], [1, -1, 0], atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
  logits, ids = _case(shape=(1, 1, 200, 3))
  logits = logits.astype(jnp.bfloat16)
  loss = losses.softmax_cross_entropy(logits, ids)
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(
      loss, _naive(logits.astype(jnp.float32), ids), rtol=1e-5)
  grad = jax.grad(
      lambda x: jnp.sum(losses.softmax_cross_entropy(x, ids)))(logits)
  assert grad.dtype == jnp.bfloat16


def test_masked_mean_ignores_padding():
  values = jnp.asarray([1.0, 2.0, jnp.nan, 6.0])
  mask = jnp.asarray([True, True, False, True])
  assert losses.masked_mean(values, mask) == 3.0
  assert losses.masked_mean(values, jnp.zeros(4, bool)) == 0.0
