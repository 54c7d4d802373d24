"""Masks of a video's frames, each from those of the frames before it.

B videos · H W image pixels · h w mask pixels · F earlier frames · G maps of a
mask: semantics and instances

The network sees the earlier masks, so an instance keeps its id without any
matching.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from uvim.encoders.image_encoder import Seen
from uvim.models.pix2seq_d.model import Labels, LabelsBefore, Pix2SeqD
from uvim.models.pix2seq_d.network import MAPS
from uvim.registry import ConfigError
from uvim.typing import PyTree, Seeds

# (number of the frame, frame, labels before it) → labels of the frame.
LabelFrame = Callable[[int, Any, LabelsBefore], Labels]


def generate(
    model: Pix2SeqD,
    params: PyTree,
    frames: Iterable[Seen],
    seeds_B: Seeds,
    *,
    num_steps: int = 20,
    later_steps: int = 10,
    **options: Any,
) -> Iterator[Labels]:
  """Yields the masks int32 [B, h, w, 2] of each frame.

  Args:
    model: has `frames_before`.
    params: of the model.
    frames: images [B, H, W, 3] in [-1, 1], in the order of time.
    seeds_B: one integer for each video.
    num_steps: of the first frame.
    later_steps: of all others. They know much from the masks before them.
    **options: further ones of `Pix2SeqD.generate`.

  Raises:
    ConfigError: the model does not see earlier frames; an option that is not
      allowed.
  """
  network = model.network
  if not network.frames_before:
    raise ConfigError("config.model.frames_before = 0; it must be at least 1 "
                      "for a video.")

  def label_frame(index, frame, before):
    return model.generate(
        params,
        frame,
        seeds_of_frame(seeds_B, index),
        before=before,
        num_steps=num_steps if index == 0 else later_steps,
        **options)

  void = jnp.zeros((len(seeds_B), *network.mask_size, len(MAPS)), jnp.int32)
  yield from stream(label_frame, frames, void, network.frames_before)


def seeds_of_frame(seeds_B: Seeds, index: int) -> Seeds:
  """A seed for a frame of each video, from the seed of the video."""

  def of_seed(seed):
    # Not a sum: frame 1 of video 2 is not frame 2 of video 1.
    return jax.random.bits(jax.random.fold_in(jax.random.key(seed), index))

  return jax.vmap(of_seed)(seeds_B)


def stream(
    label_frame: LabelFrame,
    frames: Iterable[Any],
    void: Labels,
    frames_before: int,
) -> Iterator[Labels]:
  """The labels of a video's frames, each from those of the frames before it.

  Args:
    label_frame: see `LabelFrame`. The labels before are those of F frames, the
      earliest first.
    frames: in the order of time.
    void: zeros, the labels of what was before the first frame.
    frames_before: F.
  """
  before = [void] * frames_before
  for index, frame in enumerate(frames):
    labels = label_frame(index, frame, jnp.concatenate(before, axis=-1))
    before = [*before[1:], labels]
    yield labels
