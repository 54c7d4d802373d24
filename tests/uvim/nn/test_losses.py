"""Integer cross-entropy against plain log-softmax, values and gradients."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from uvim.nn import losses


def make_case(seed=0, shape=(2, 3, 5, 4)):
  """(logits [B, N, K, P], ids [B, N, P])."""
  rng = np.random.default_rng(seed)
  *leading, num_classes, num_pixels = shape
  logits = jnp.asarray(rng.normal(size=shape) * 5, jnp.float32)
  ids = rng.integers(0, num_classes, size=(*leading, num_pixels))
  return logits, jnp.asarray(ids, jnp.int32)


def one_hot_cross_entropy(logits, ids):
  target = jax.nn.one_hot(ids, logits.shape[-2], axis=-2)
  return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-2), axis=-2)


def test_equals_one_hot_cross_entropy_in_value_and_gradient():
  logits, ids = make_case()
  ids = ids.at[0, 0, 0].set(-1)
  ids = ids.at[1, 2, 3].set(5)
  ids = ids.at[1, 0, 1].set(-7)
  rng = np.random.default_rng(1)
  weight = jnp.asarray(rng.normal(size=ids.shape), jnp.float32)

  def value_and_gradient(cross_entropy):
    def total(logits):
      return jnp.sum(cross_entropy(logits, ids) * weight)

    return jax.jit(jax.value_and_grad(total))(logits)

  # one_hot of an id out of range is all zeros: such pixels are unlabelled too.
  ours, d_ours = value_and_gradient(losses.softmax_cross_entropy)
  plain, d_plain = value_and_gradient(one_hot_cross_entropy)
  np.testing.assert_allclose(ours, plain, rtol=1e-6)
  np.testing.assert_allclose(d_ours, d_plain, atol=1e-6)


def summed_cross_entropy(logits, ids):
  return jnp.sum(losses.softmax_cross_entropy(logits, ids))


summed_and_gradient = jax.jit(jax.value_and_grad(summed_cross_entropy))


def test_unlabelled_pixels_give_zero_loss_and_zero_gradient():
  logits, ids = make_case()
  unlabelled = jnp.full_like(ids, -1).at[0].set(5)
  loss, grad = summed_and_gradient(logits, unlabelled)
  assert loss == 0
  assert not np.any(grad)


def test_zero_logits_cost_log_of_the_class_count():
  logits = jnp.zeros((1, 134, 2))
  loss = losses.softmax_cross_entropy(logits, jnp.zeros((1, 2), jnp.int32))
  np.testing.assert_allclose(loss, np.log(134), rtol=1e-6)


def test_huge_logits_stay_finite():
  logits = jnp.asarray([[[1e4], [-1e4], [0.0]]])
  ids = jnp.asarray([[1]])
  loss, grad = summed_and_gradient(logits, ids)
  assert loss == 2e4
  np.testing.assert_allclose(grad[0, :, 0], [1, -1, 0], atol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
  logits, ids = make_case(shape=(1, 1, 200, 3))
  logits = logits.astype(jnp.bfloat16)
  loss = jax.jit(losses.softmax_cross_entropy)(logits, ids)
  assert loss.dtype == jnp.float32
  expected = jax.jit(one_hot_cross_entropy)(logits.astype(jnp.float32), ids)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  _, grad = summed_and_gradient(logits, ids)
  assert grad.dtype == jnp.bfloat16


# In chunks of pixels.


CLASSES = 5
PIXELS = 6


def head_loss(params, x_BND, labels):
  """A head with a bias, one loss from integers and one from reals."""
  logits = jnp.einsum("bnd,dkp->bnkp", x_BND, params["kernel"])
  logits += params["bias"][None, None]
  cross_entropy = losses.softmax_cross_entropy(logits, labels["ids"])
  square = jnp.square(logits[:, :, 0] - labels["real"])
  ids_B = losses.per_example_mean(cross_entropy)
  real_B = losses.per_example_mean(square)
  return ids_B + real_B, {"ids": ids_B, "real": real_B}


def head_case(batch, tokens, width=4):
  """(parameters, tokens, labels) of `head_loss`."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  kernel = normal(width, CLASSES, PIXELS)
  bias = normal(CLASSES, PIXELS)
  # Some ids lie below 0 and some above: unlabelled.
  ids = rng.integers(-1, CLASSES + 1, (batch, tokens, PIXELS))
  labels = {
      "ids": jnp.asarray(ids, jnp.int32),
      "real": normal(batch, tokens, PIXELS),
  }
  params = {"kernel": kernel, "bias": bias}
  return params, normal(batch, tokens, width), labels


def direct_mean(params, x_BND, labels):
  return jax.tree.map(jnp.mean, head_loss(params, x_BND, labels))


def mean_by_chunks(params, x_BND, labels):
  chunked = losses.ChunkedLoss(head_loss, chunk_size=2)
  return chunked.mean(params, x_BND, labels)


def gradients(mean, params, x_BND, labels):
  """Of 3 times the loss, as a commitment loss beside it would make it."""

  def loss(params, x_BND, labels):
    value, logs = mean(params, x_BND, labels)
    return 3 * value, logs

  value_and_grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  return jax.jit(value_and_grad)(params, x_BND, labels)


def assert_close(ours, theirs):
  def assert_leaf_close(x, y):
    np.testing.assert_allclose(x, y, atol=2e-6, rtol=1e-5)

  jax.tree.map(assert_leaf_close, ours, theirs)


def test_chunks_of_pixels_give_the_same_loss_and_gradients():
  case = head_case(batch=2, tokens=12)
  assert_close(gradients(mean_by_chunks, *case), gradients(direct_mean, *case))
  assert_close(jax.jit(mean_by_chunks)(*case), jax.jit(direct_mean)(*case))
  chunked = losses.ChunkedLoss(head_loss, chunk_size=3)
  assert_close(jax.jit(chunked.of_each)(*case), jax.jit(head_loss)(*case))


def test_a_chunk_has_at_most_so_many_logits_on_a_device():
  outputs = {"a": (3, 16), "b": (2, 16)}

  def size(num_tokens):
    return losses.chunk_size(num_tokens, outputs, max_logits=1000)

  assert size(40) == 4  # 40 · (3 + 2) · 4 = 800.
  assert size(12) == 16
  assert size(10**6) == 1
  with jax.set_mesh(jax.make_mesh((2, 4), ("data", "model"))):
    assert size(40) == 8


def test_a_chunk_fits_into_the_cache_of_a_cpu():
  outputs = {"a": (134, 256)}
  num_tokens = 1024
  size = losses.chunk_size(num_tokens, outputs)
  num_logits = num_tokens * 134 * size
  assert losses.CPU_CHUNK / 2 < num_logits <= losses.CPU_CHUNK


def test_chunks_on_a_mesh_move_the_heads_gradient_once():
  width = 8
  case = head_case(batch=4, tokens=12, width=width)
  expected = gradients(direct_mean, *case)
  mesh = jax.make_mesh(
      (4,),
      ("data",),
      (jax.sharding.AxisType.Auto,),
      devices=jax.devices()[:4],
  )
  params, *tokens_and_labels = case
  params = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
  tokens_and_labels = jax.device_put(
      tokens_and_labels, jax.NamedSharding(mesh, jax.P("data"))
  )

  def step(params, x_BND, labels):
    return gradients(mean_by_chunks, params, x_BND, labels)

  with jax.set_mesh(mesh):
    compiled = jax.jit(step).lower(params, *tokens_and_labels).compile()
    ours = compiled(params, *tokens_and_labels)
  assert_close(jax.device_get(ours), expected)
  # A chunk moves its own part of the kernel's gradient, and nothing of the
  # tokens or of the logits.
  program = compiled.as_text()
  others = r" (all-gather|all-to-all|collective-permute)\("
  assert not re.search(others, program)
  assert max(all_reduced_sizes(program)) == width * CLASSES * 2


def all_reduced_sizes(program):
  """Elements of each float32 array that a compiled program all-reduces."""
  sizes = []
  for shapes in re.findall(r"= (.*) all-reduce\(", program):
    for shape in re.findall(r"f32\[([\d,]*)\]", shapes):
      dimensions = [int(size) for size in shape.split(",") if size]
      sizes.append(math.prod(dimensions))
  return sizes


def largest_array(jaxpr):
  """Elements of the largest value that a program computes, loops included."""
  largest = 0
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      largest = max(largest, variable.aval.size)
    for inner in jax.core.jaxprs_in_params(equation.params):
      largest = max(largest, largest_array(inner))
  return largest


def test_the_logits_of_all_pixels_never_exist():
  batch = 2
  tokens = 64
  case = head_case(batch, tokens)
  all_logits = batch * tokens * CLASSES * PIXELS

  def largest(mean):
    def step(*case):
      return gradients(mean, *case)

    return largest_array(jax.make_jaxpr(step)(*case).jaxpr)

  assert largest(mean_by_chunks) == all_logits / 3
  assert largest(direct_mean) >= all_logits
