"""Integer cross-entropy against plain log-softmax, values and gradients."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from uvim.nn import losses


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


# In chunks of pixels.


CLASSES, PIXELS = 5, 6


def head_loss(params, x_BND, labels):
  """A head with a bias, one loss from integers and one from reals."""
  logits = jnp.einsum("bnd,dkp->bnkp", x_BND, params["kernel"])
  logits += params["bias"][None, None]
  ids_B = losses.per_example_mean(
      losses.softmax_cross_entropy(logits, labels["ids"]))
  error_B = losses.per_example_mean(
      jnp.square(logits[:, :, 0] - labels["real"]))
  return ids_B + error_B, {"ids": ids_B, "real": error_B}


def head_case(batch, tokens, width=4):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  params = {"kernel": normal(width, CLASSES, PIXELS),
            "bias": normal(CLASSES, PIXELS)}
  labels = {"ids": jnp.asarray(
      rng.integers(-1, CLASSES + 1, (batch, tokens, PIXELS)), jnp.int32),
      "real": normal(batch, tokens, PIXELS)}
  return params, normal(batch, tokens, width), labels


def direct_mean(params, x_BND, labels):
  return jax.tree.map(jnp.mean, head_loss(params, x_BND, labels))


def by_chunks(params, x_BND, labels):
  return losses.mean_by_chunks(head_loss, 2, params, x_BND, labels)


def gradients(mean, params, x_BND, labels):
  """Of 3 times the loss, as a commitment loss beside it would make it."""
  def loss(params, x_BND, labels):
    value, logs = mean(params, x_BND, labels)
    return 3 * value, logs
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
      params, x_BND, labels)


def assert_close(ours, theirs):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, atol=2e-6, rtol=1e-5), ours, theirs)


def test_chunks_of_pixels_give_the_same_loss_and_gradients():
  case = head_case(batch=2, tokens=12)
  assert_close(gradients(by_chunks, *case), gradients(direct_mean, *case))
  assert_close(by_chunks(*case), direct_mean(*case))
  assert_close(losses.of_each_by_chunks(head_loss, 3, *case),
               head_loss(*case))


def test_a_chunk_has_at_most_so_many_logits_on_a_device(monkeypatch):
  monkeypatch.setattr(losses, "CPU_CHUNK", 1000)
  outputs = {"a": (3, 16), "b": (2, 16)}
  assert losses.chunk_size(40, outputs) == 4  # 40 · (3 + 2) · 4 = 800.
  assert losses.chunk_size(12, outputs) == 16
  assert losses.chunk_size(10**6, outputs) == 1
  with jax.set_mesh(jax.make_mesh((2, 4), ("data", "model"))):
    assert losses.chunk_size(40, outputs) == 8


def test_chunks_on_a_mesh_move_the_heads_gradient_once():
  case = head_case(batch=4, tokens=12, width=8)
  expected = gradients(direct_mean, *case)
  mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,),
                       devices=jax.devices()[:4])
  params, *rest = case
  rest = jax.device_put(rest, jax.NamedSharding(mesh, jax.P("data")))
  params = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))

  def step(params, x_BND, labels):
    return gradients(by_chunks, params, x_BND, labels)

  with jax.set_mesh(mesh):
    compiled = jax.jit(step).lower(params, *rest).compile()
    assert_close(jax.device_get(compiled(params, *rest)), expected)
  # A chunk moves its own part of the kernel's gradient, and nothing of the
  # tokens or of the logits.
  text = compiled.as_text()
  assert not re.search(r" (all-gather|all-to-all|collective-permute)\(", text)
  moved = [math.prod(map(int, filter(None, shape.split(","))))
           for shapes in re.findall(r"= (.*) all-reduce\(", text)
           for shape in re.findall(r"f32\[([\d,]*)\]", shapes)]
  assert max(moved) == 8 * CLASSES * 2


def largest_array(jaxpr):
  """Elements of the largest value that a program computes, loops included."""
  sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars]
  return max(sizes + [
      largest_array(inner) for e in jaxpr.eqns
      for inner in jax.core.jaxprs_in_params(e.params)], default=0)


def test_the_logits_of_all_pixels_never_exist():
  batch, tokens = 2, 64
  case = head_case(batch, tokens)
  all_logits = batch * tokens * CLASSES * PIXELS

  def largest(mean):
    return largest_array(jax.make_jaxpr(
        lambda *case: gradients(mean, *case))(*case).jaxpr)
  assert largest(by_chunks) == all_logits / 3
  assert largest(direct_mean) >= all_logits
