"""The colorization task: what it feeds, charges and returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import resize, tasks
from uvim.nn import embedding
from uvim.registry import ConfigError


def _fields(size=(8, 12), patch=(4, 4)):
  spec = {"color": (3, patch[0] * patch[1])}
  return dict(inputs=spec, outputs=spec, input_size=size, patch_size=patch)


def _task(name="colorization", **kw):
  return tasks.make_task(name, _fields(**kw))


def _labels(batch=2):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (batch, 8, 12, 3)).astype(np.float32)


def test_every_channel_of_every_pixel_has_its_own_weight():
  """Layout [B,N,3,P] of the published kernels (3, P, D) and (D, 3, P)."""
  task, labels = _task(), _labels()
  x = task.inputs({"labels": labels})["x"]["color"]
  assert x.shape == (2, 6, 3, 16) and x.dtype == np.float32
  module = embedding.LabelEmbedding((3, 16), 1)
  row, column, channel = 2, 3, 1
  kernel = np.zeros((3, 16, 1), np.float32)
  kernel[channel, row * 4 + column] = 1
  picked = module.apply(
      {"params": {"kernel": kernel, "bias": np.zeros(1)}}, jnp.asarray(x))
  np.testing.assert_array_equal(
      picked[..., 0], labels[:, row::4, column::4, channel].reshape(2, 6))


def test_an_embedding_starts_the_same_for_colours_and_ids():
  # New models are drawn with integer labels, whatever their task.
  module = embedding.LabelEmbedding((3, 64), 32)
  by_id, by_colour = (
      module.init(jax.random.key(0), x)["params"]
      for x in (jnp.zeros((1, 2, 64), jnp.int32), jnp.zeros((1, 2, 3, 64))))
  for ours, other in zip(
      jax.tree.leaves(by_id), jax.tree.leaves(by_colour), strict=True):
    np.testing.assert_array_equal(ours, other)
  np.testing.assert_allclose(
      np.std(by_colour["kernel"]), (3 * 64) ** -0.5, rtol=0.1)


def test_outputs_undo_inputs():
  task, labels = _task("proj.uvim.colorization_task"), _labels()
  x = task.inputs({"labels": jnp.asarray(labels)})["x"]
  out = jax.jit(task.outputs)(x)["color"]
  np.testing.assert_array_equal(out, labels)
  np.testing.assert_array_equal(out, task.truth({"labels": labels})["color"])


def test_loss_is_the_mean_square_over_channels_and_pixels():
  """BEHAVIOURS 15; the numbers of each example by themselves."""
  task, labels = _task(), _labels()
  x = task.inputs({"labels": labels})["x"]
  loss_B, logs = task.loss({"color": jnp.zeros((2, 6, 3, 16))}, x)
  assert loss_B.shape == (2,)
  np.testing.assert_allclose(
      loss_B, np.square(labels).mean((1, 2, 3)), rtol=1e-5)
  np.testing.assert_array_equal(loss_B, logs["loss_color"])
  red = jnp.zeros((1, 6, 3, 16)).at[:, :, 0].set(1)
  loss_B, _ = task.loss({"color": red}, {"color": jnp.zeros((1, 6, 3, 16))})
  np.testing.assert_allclose(loss_B, [1 / 3], rtol=1e-6)


def test_outputs_are_clipped_and_the_loss_is_not():
  task = _task()
  logits = {"color": jnp.full((1, 6, 3, 16), 3, jnp.bfloat16)}
  logits["color"] = logits["color"].at[:, :, 1].set(-3)
  out = task.outputs(logits)["color"]
  assert out.shape == (1, 8, 12, 3) and out.dtype == jnp.float32
  assert (out == jnp.array([1, -1, 1])[None, None, None]).all()
  x = {"color": jnp.ones((1, 6, 3, 16))}
  loss, grads = jax.value_and_grad(
      lambda color: task.loss({"color": color}, x)[0].sum())(
          logits["color"].astype(jnp.float32))
  np.testing.assert_allclose(loss, (4 + 16 + 4) / 3, rtol=1e-6)
  assert (np.abs(grads) > 0).all()


def test_pictures_are_the_bytes_they_came_from():
  colors = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
  colors[..., 1] = 255 - colors[..., 1]
  labels = np.float32(colors) / 255 * 2 - 1
  task = _task()
  picture = task.render(task.truth({"labels": labels}))
  assert picture.dtype == np.uint8
  np.testing.assert_array_equal(picture, colors)
  np.testing.assert_array_equal(  # The nearest byte, from below too.
      task.render({"color": labels - 0.3 / 127.5}), colors)
  np.testing.assert_array_equal(
      task.render({"color": np.float32([-1.5, 1.5])}), [0, 255])


def _noise(height, width):
  return np.random.default_rng(3).integers(
      0, 256, (height, width, 3), np.uint8)


def test_full_luma_keeps_the_sharp_edges_of_the_image():
  image = _noise(40, 60)
  small = resize.resize_bilinear(image, (5, 5)).astype(np.float32) / 127.5 - 1
  small = small * .2  # Far from the ends of the range: nothing is clipped.
  image = np.uint8(96 + image // 4)
  plain = _task().to_image_size(small, image)
  sharp = _task().to_image_size(small, image, full_luma=True)
  weights = [0.2989, 0.587, 0.114]
  np.testing.assert_allclose(
      sharp @ weights, (image / 127.5 - 1) @ weights, atol=1e-4)
  np.testing.assert_allclose(  # The colors are still the small image's.
      sharp[..., 0] - sharp[..., 2], plain[..., 0] - plain[..., 2], atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
def test_an_image_is_its_own_label_in_color(antialias):
  image = _noise(40, 60)
  label = _task().label_at(image, (8, 12), antialias=antialias)
  np.testing.assert_array_equal(
      label, resize.to_model(image, (8, 12), antialias=antialias))
  assert _task().labels_from_image and _task().sees_grey


def test_channels_that_are_no_colours_are_named():
  fields = _fields() | {"outputs": {"color": (4, 16)}}
  with pytest.raises(ConfigError, match="outputs.*4 channels.*3"):
    tasks.make_task("colorization", fields)
  with pytest.raises(ConfigError, match="min_depth"):
    tasks.make_task("colorization", _fields(), min_depth=0.1)


@pytest.mark.parametrize("labels, message", [
    (np.zeros((1, 8, 12, 3), np.uint8), "uint8.*value_range"),
    (np.zeros((1, 8, 12, 1), np.float32), "1 channels"),
    (np.zeros((1, 8, 8, 3), np.float32), "8x8"),
])
def test_labels_that_are_no_colours_are_refused(labels, message):
  with pytest.raises(ConfigError, match=message):
    _task().inputs({"labels": labels})
