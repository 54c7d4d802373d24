"""Training on videos: masks of earlier frames, and a start from images.

B examples · h w mask pixels · F earlier frames · G maps of a mask
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from uvim.models.pix2seq_d.model import (
  Drawn,
  Labels,
  LabelsBefore,
  Pix2SeqD,
)
from uvim.models.pix2seq_d.network import MAPS
from uvim.typing import PerExample, PRNGKey

# Mixed into the keys of the examples, because `Pix2SeqD.draw` uses them, too.
_HIDING_SALT = 0x68696465
# The layer that sees the noisy mask, the image and the masks before. What it
# sees is the second axis from the end of its kernel.
FIRST_KERNEL = "params/denoiser/conv_in/kernel"


def draw(
    model: Pix2SeqD,
    labels: Labels,
    before: LabelsBefore,
    rngs_B: PRNGKey,
    time_B: PerExample | None = None,
) -> tuple[Drawn, LabelsBefore]:
  """What training draws for frames, and the earlier masks that it shows.

  An instance has one random id in all frames of an example. An earlier mask is
  void with the probability `frame_dropout`, each by itself.

  Args:
    model: has `frames_before`.
    labels: of the frames to predict; 0 is void.
    before: labels of the F frames before, the earliest first.
    rngs_B: a key for each example.
    time_B: as in `Pix2SeqD.draw`.
  """
  frames = [*_split_frames(before), labels]
  # Upon each other they are one tall mask, so all frames get the same ids.
  tall = jnp.concatenate(frames, axis=1)
  drawn = model.draw(tall, rngs_B, time_B)
  *earlier, last = jnp.split(drawn.labels, len(frames), axis=1)
  noise = jnp.split(drawn.noise, len(frames), axis=1)[-1]
  shown = _hide_some(earlier, rngs_B, model.network.frame_dropout)
  drawn = drawn._replace(labels=last, noise=noise)
  return drawn, jnp.concatenate(shown, axis=-1)


def _split_frames(before: LabelsBefore) -> list[Labels]:
  """The labels of each earlier frame."""
  num_frames = before.shape[-1] // len(MAPS)
  return jnp.split(before, num_frames, axis=-1)


def _hide_some(frames, rngs_B, probability) -> list[Labels]:
  """The frames, some of them void."""
  mix = functools.partial(jax.random.fold_in, data=_HIDING_SALT)
  keys_B = jax.vmap(mix)(rngs_B)
  choose = functools.partial(
      jax.random.bernoulli, p=probability, shape=(len(frames),))
  is_hidden_BF = jax.vmap(choose)(keys_B)
  shown = []
  for index, labels in enumerate(frames):
    is_hidden_B111 = is_hidden_BF[:, index, None, None, None]
    shown.append(jnp.where(is_hidden_B111, 0, labels))
  return shown


def with_earlier_masks(
    arrays: Mapping[str, np.ndarray], num_inputs: int
) -> dict[str, np.ndarray]:
  """The arrays of a model of images for one that sees earlier masks, too.

  At first it does not look at them: these rows of its first kernel are zero.

  Args:
    arrays: by name ('params/…'); without the first kernel all stay as they are.
    num_inputs: how many numbers of a place the new first kernel sees.
  """
  arrays = dict(arrays)
  kernel = arrays.get(FIRST_KERNEL)
  if kernel is not None:
    shape = list(kernel.shape)
    shape[-2] = num_inputs - shape[-2]
    new_rows = np.zeros(shape, kernel.dtype)
    arrays[FIRST_KERNEL] = np.concatenate([kernel, new_rows], axis=-2)
  return arrays
