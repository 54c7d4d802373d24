"""Random crops of images on the device, each resized to one size.

B batch · V crops of an image · H W image pixels · h w pixels of a crop
"""

import functools

import jax
import jax.numpy as jnp

from uvim.typing import Array, Float, Image, PRNGKey

# Least and most width / height of a crop, before it is resized.
_ASPECT = (3 / 4, 4 / 3)

Crops = Float[Array, "V B h w 3"]


def draw_crops(
    image: Image,
    rngs_B: PRNGKey,
    *,
    num_crops: int,
    size: tuple[int, int],
    area: tuple[float, float],
) -> Crops:
  """Draws crops; half of them, by chance, are mirrored left and right.

  Args:
    image: [B, H, W, 3] in [-1, 1].
    rngs_B: a key for each image. Its crops depend on nothing but the image and
      its key.
    num_crops: V.
    size: (h, w).
    area: least and most share of the image that a crop has.

  Returns:
    Crops in [-1, 1].
  """
  draw_crop = functools.partial(_draw_crop, size=size, area=area)

  def draw(image_HWC, rng):
    rngs_V = jax.random.split(rng, num_crops)
    return jax.vmap(draw_crop, in_axes=(None, 0))(image_HWC, rngs_V)

  return jax.vmap(draw, out_axes=1)(image, rngs_B)


def _draw_crop(image_HWC, rng, *, size, area):
  """One crop of one image."""
  box_rng, flip_rng = jax.random.split(rng)
  image_size = image_HWC.shape[:2]
  begin, extent = _draw_box(box_rng, image_size, area)
  # A pixel x of the image is pixel x · scale + translation of the crop.
  scale = jnp.asarray(size, jnp.float32) / extent
  translation = -begin * scale
  num_channels = image_HWC.shape[-1]
  crop = jax.image.scale_and_translate(
      image_HWC, (*size, num_channels), (0, 1), scale, translation,
      method="cubic", antialias=True)
  # Cubic interpolation overshoots at edges.
  crop = jnp.clip(crop, -1, 1)
  is_mirrored = jax.random.bernoulli(flip_rng)
  return jnp.where(is_mirrored, crop[:, ::-1], crop)


def _draw_box(rng, image_size, area):
  """(top and left, height and width) of a box inside of the image, in pixels.

  Both are float32 [2]. The box's share of the image is uniform, and so is the
  logarithm of its width / height.
  """
  area_rng, aspect_rng, place_rng = jax.random.split(rng, 3)
  size = jnp.asarray(image_size, jnp.float32)
  least_area, most_area = area
  share = jax.random.uniform(area_rng, minval=least_area, maxval=most_area)
  least_aspect, most_aspect = _ASPECT
  log_aspect = jax.random.uniform(
      aspect_rng, minval=jnp.log(least_aspect), maxval=jnp.log(most_aspect))
  aspect = jnp.exp(log_aspect)

  # height · width = num_pixels, and width / height = aspect.
  num_pixels = share * jnp.prod(size)
  squares = jnp.stack([num_pixels / aspect, num_pixels * aspect])
  extent = jnp.sqrt(squares)
  # A box that is too long or too high is cut.
  extent = jnp.minimum(extent, size)
  room = size - extent
  begin = jax.random.uniform(place_rng, (2,)) * room
  return begin, extent
