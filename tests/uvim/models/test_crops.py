"""Crops on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from uvim.models import crops

SIZE = (8, 12)


def draw(image, rngs_B, num_crops=5):
  program = jax.jit(functools.partial(
      crops.draw_crops, num_crops=num_crops, size=SIZE, area=(0.1, 0.5)))
  return np.asarray(program(image, rngs_B))


def keys(batch, seed=0):
  return jax.random.split(jax.random.key(seed), batch)


def ramps(batch=3, height=32, width=24):
  """Images whose channels are the row and the column of a pixel, in [0, 1]."""
  rows, columns = np.meshgrid(
      (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width,
      indexing="ij")
  image = np.stack([rows, columns, 0 * rows], -1).astype(np.float32)
  return np.broadcast_to(image, (batch, *image.shape))


def test_crops_of_an_example_depend_on_its_key_alone():
  found = draw(ramps(), keys(3))
  assert found.shape == (5, 3, *SIZE, 3)
  alone = draw(ramps(1), keys(3)[1:2])
  np.testing.assert_allclose(alone[:, 0], found[:, 1], atol=1e-6)
  assert len(np.unique(found.reshape(15, -1), axis=0)) == 15


def test_a_crop_is_a_box_of_the_image():
  found = draw(ramps(50), keys(50), num_crops=4)
  # Inside of a crop, rows and columns rise evenly.
  inner = found[:, :, 2:-2, 2:-2]
  row_steps = np.diff(inner[..., 0], axis=2)
  column_steps = np.diff(inner[..., 1], axis=3)
  for steps in (row_steps, column_steps):
    spread = steps.max((2, 3)) - steps.min((2, 3))
    assert spread.max() < 0.01
  # From the steps follows the share of the image that a box has.
  heights = SIZE[0] * row_steps.mean((2, 3))
  widths = SIZE[1] * np.abs(column_steps.mean((2, 3)))
  shares = heights * widths
  assert 0.09 < shares.min() < 0.15
  assert 0.45 < shares.max() < 0.51
  # Half of them are mirrored.
  is_mirrored = column_steps.mean((2, 3)) < 0
  assert 0.35 < is_mirrored.mean() < 0.65


def test_no_color_is_new():
  image = np.where(ramps(4) > 0.5, 1.0, -1.0).astype(np.float32)
  found = draw(image, keys(4), num_crops=8)
  assert np.abs(found).max() <= 1
  assert found.dtype == jnp.float32
