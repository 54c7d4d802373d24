"""The normals task: what it feeds, charges, returns and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tasks
from uvim.registry import ConfigError


def make(channels=3):
  spec = {"normals": (channels, 16)}
  return tasks.make_task("normals", dict(
      inputs=spec, outputs=spec, input_size=(8, 12), patch_size=(4, 4)))


def directions(seed):
  """Unit vectors."""
  n = np.random.default_rng(seed).normal(size=(2, 8, 12, 3))
  return np.float32(n / np.linalg.norm(n, axis=-1, keepdims=True))


def labels():
  """Of the second picture the left half is unknown."""
  n = directions(0)
  n[1, :, :6] = 0
  return n


def test_outputs_undo_inputs_whatever_the_length():
  task, truth = make(), labels()
  x = task.inputs({"labels": truth})["x"]["normals"]
  assert x.shape == (2, 6, 3, 16)
  out = jax.jit(task.outputs)({"normals": 2.5 * jnp.asarray(x)})["normals"]
  np.testing.assert_allclose(out, truth, atol=1e-6)


def test_loss_is_one_minus_the_cosine_and_unknown_pixels_cost_nothing():
  task, truth = make(), labels()
  x = task.inputs({"labels": truth})["x"]
  other = directions(1)
  logits = task.inputs({"labels": jnp.asarray(other)})["x"]
  loss_B, logs = task.loss(logits, x)
  cosine = np.sum(truth * other, -1)
  known = truth.any(-1)
  want = np.where(known, 1 - cosine, 0).mean((1, 2))
  np.testing.assert_allclose(loss_B, want, rtol=1e-5)
  np.testing.assert_array_equal(loss_B, logs["loss_normals"])
  # Heads start at zero: half the squared length, and a gradient that points to
  # the truth.
  zeros = {"normals": jnp.zeros((2, 6, 3, 16))}
  loss, grads = jax.value_and_grad(
      lambda z: task.loss(z, x)[0].sum())(zeros)
  np.testing.assert_allclose(loss, 0.5 + 0.25, rtol=1e-5)
  np.testing.assert_allclose(
      task.outputs({"normals": -grads["normals"]})["normals"], truth,
      atol=1e-5)


def test_a_mean_over_parts_of_the_tokens_is_the_mean():
  task = make()
  x = task.inputs({"labels": labels()})["x"]["normals"]
  logits = jnp.roll(x, 1, axis=0)
  whole, _ = task.loss({"normals": logits}, {"normals": x})
  parts = [task.loss({"normals": logits[:, i:i + 2]},
                     {"normals": x[:, i:i + 2]})[0] for i in (0, 2, 4)]
  np.testing.assert_allclose(np.mean(parts, axis=0), whole, rtol=1e-5)


def test_pictures():
  n = np.float32([[[[0, 0, 1], [1, 0, 0], [0, -1, 0], [0, 0, 0]]]])
  np.testing.assert_array_equal(
      make().render({"normals": n})[0, 0],
      [[128, 128, 255], [255, 128, 128], [128, 0, 128], [0, 0, 0]])


@pytest.mark.parametrize("channels,truth", [
    (1, np.zeros((1, 8, 12, 3), np.float32)),
    (3, np.zeros((1, 8, 12, 1), np.float32)),
    (3, np.zeros((1, 8, 12, 3), np.uint8))])
def test_what_is_no_normal_is_refused(channels, truth):
  with pytest.raises(ConfigError, match="3.*unit vector"):
    make(channels).inputs({"labels": truth})


def test_a_mean_of_directions_has_length_1():
  task = make()
  samples = jnp.asarray([directions(0), directions(1)])
  mean = task.mean({"normals": samples})["normals"]
  np.testing.assert_allclose(jnp.linalg.norm(mean, axis=-1), 1, atol=1e-5)
  np.testing.assert_allclose(
      mean * jnp.linalg.norm(samples.sum(0), axis=-1, keepdims=True),
      samples.sum(0), atol=1e-5)
