"""Masks of a video's frames, each from those of the frames before it.

B videos · T frames · H W image pixels · h w mask pixels · F earlier frames
G maps of a mask: semantics and instances

The network sees the earlier masks, so an instance keeps its id without any
matching.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uvim.encoders.image_encoder import Seen
from uvim.models.pix2seq_d.model import Labels, LabelsBefore, Pix2SeqD
from uvim.models.pix2seq_d.network import MAPS
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Int, PyTree, Seeds

# (number of the frame, frame, labels before it) → labels of the frame.
LabelFrame = Callable[[int, Any, LabelsBefore], Labels]
# Of all frames but the first of a video. They know much from the masks before
# them.
LATER_STEPS = 10


def generate(
    model: Pix2SeqD,
    params: PyTree,
    frames: Iterable[Seen],
    seeds_B: Seeds,
    *,
    num_steps: int = 20,
    later_steps: int = LATER_STEPS,
    **options: Any,
) -> Iterator[Labels]:
  """Yields the masks int32 [B, h, w, 2] of each frame.

  Args:
    model: has `frames_before`.
    params: of the model.
    frames: images [B, H, W, 3] in [-1, 1], in the order of time.
    seeds_B: one integer for each video.
    num_steps: of the first frame.
    later_steps: of all others.
    **options: further ones of `Pix2SeqD.generate`.

  Raises:
    ConfigError: the model does not see earlier frames; an option that is not
      allowed.
  """
  network = model.network
  _check_sees_earlier_frames(model)

  def label_frame(index, frame, before):
    return model.generate(
        params,
        frame,
        seeds_of_frames(seeds_B, index),
        before=before,
        num_steps=num_steps if index == 0 else later_steps,
        **options)

  void = jnp.zeros((len(seeds_B), *network.mask_size, len(MAPS)), jnp.int32)
  yield from stream(label_frame, frames, void, network.frames_before)


def _check_sees_earlier_frames(model: Pix2SeqD) -> None:
  if not model.network.frames_before:
    raise ConfigError("config.model.frames_before = 0; it must be at least 1 "
                      "for a video.")


def seeds_of_frames(seeds_B: Seeds, numbers: Any) -> Seeds:
  """A seed for a frame of each video, from the seed of the video.

  Args:
    seeds_B: of the videos.
    numbers: of the frames, from 0: one for all videos, or [B].
  """

  def of_seed(seed, number):
    # Not a sum: frame 1 of video 2 is not frame 2 of video 1.
    return jax.random.bits(jax.random.fold_in(jax.random.key(seed), number))

  numbers_B = jnp.broadcast_to(jnp.asarray(numbers), jnp.shape(seeds_B))
  return jax.vmap(of_seed)(seeds_B, numbers_B)


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


# ── Videos in batches ───────────────────────────────────────────────────────


class Frames(NamedTuple):
  """Some frames of one or several videos, in the order of time.

  Attributes:
    image: in [-1, 1].
    seeds_T: of the video of each frame: the same for all frames of a video.
    videos_T: the number of that video.
    numbers_T: of the frame in its video; 0 is the first.
  """
  image: Float[Array, "T H W 3"]
  seeds_T: Seeds
  videos_T: Int[Array, "T"]
  numbers_T: Int[Array, "T"]


class Memory(NamedTuple):
  """What is known of a video after one of its frames.

  Attributes:
    video: its number.
    number: of the frame.
    before: labels of the last F frames, the earliest first.
  """
  video: Int[Array, ""]
  number: Int[Array, ""]
  before: Int[Array, "1 h w F*G"]


def empty_memory(model: Pix2SeqD) -> Memory:
  """The memory before any video."""
  network = model.network
  num_maps = network.frames_before * len(MAPS)
  nothing = jnp.array(-1, jnp.int32)
  before = jnp.zeros((1, *network.mask_size, num_maps), jnp.int32)
  return Memory(nothing, nothing, before)


def label_frames(
    model: Pix2SeqD,
    params: PyTree,
    frames: Frames,
    memory: Memory,
    *,
    num_steps: int = 20,
    later_steps: int = LATER_STEPS,
    **options: Any,
) -> tuple[Int[Array, "T h w G"], Memory]:
  """The masks of frames, and the memory for those that follow; traceable.

  A frame is predicted from the masks of the frames before it, wherever they
  are: among `frames` or in the memory. If the frame before is in neither, it
  is the first of its video.

  Args:
    model: has `frames_before`.
    params: of the model.
    frames: what to predict.
    memory: after the last frame that was predicted.
    num_steps: of the first frame of a video.
    later_steps: of all others.
    **options: further ones of `Pix2SeqD.generate`.

  Raises:
    ConfigError: as `generate`.
  """
  _check_sees_earlier_frames(model)

  def label_frame(memory, frame):
    is_next = frame.videos_T == memory.video
    is_next &= frame.numbers_T == memory.number + 1
    before = jnp.where(is_next, memory.before, 0)
    seeds_1 = seeds_of_frames(frame.seeds_T[None], frame.numbers_T)

    def run(num_steps):
      return model.generate(
          params, frame.image[None], seeds_1, before=before,
          num_steps=num_steps, **options)

    labels = jax.lax.cond(
        is_next, lambda: run(later_steps), lambda: run(num_steps))
    before = jnp.concatenate([before, labels], axis=-1)
    memory = Memory(
        frame.videos_T, frame.numbers_T, before[..., len(MAPS):])
    return memory, labels[0]

  memory, labels = jax.lax.scan(label_frame, memory, frames)
  return labels, memory
