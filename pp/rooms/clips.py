"""Clips: a room seen by a camera that moves, while things move in it.

A frame is a function of (seed, index, frame): the stream, the number of the
clip in its stream, and the number of the frame in the clip. Frame 0 is a scene
as `rooms` has them. An instance has the same id in all frames, also after it
was hidden or outside of the image.
"""

from typing import NamedTuple

import numpy as np

from pp.rooms.motion import Motion, draw_motion, move
from pp.rooms.render import keep_memory, render_scene
from pp.rooms.scene import Scene, draw_scene, make_rng
from pp.rooms.segments import describe, draw_ids

NUM_FRAMES = 24  # Of the clips of the data set.
_CLIPS_PER_STREAM = 10**6


class Clip(NamedTuple):
  """A clip of any length."""
  scene: Scene  # At frame 0.
  motion: Motion
  ids: np.ndarray  # Of each number of a segment.


def clip_id(seed, index):
  """The number `clip/id` of a clip; no two clips share one."""
  return seed * _CLIPS_PER_STREAM + index


def draw_clip(seed, index, height=None, width=None):
  """Draws a Clip, the same on every call and in every process.

  Args:
    seed: stream of clips, an int ≥ 0.
    index: number of the clip in the stream, an int ≥ 0.
    height: pixels; None draws a size around 96 × 128 or 128 × 96.
    width: pixels, likewise.
  """
  rng = make_rng(seed, index)
  scene = draw_scene(rng, height, width)
  motion = draw_motion(rng, scene)
  ids = draw_ids(rng)
  return Clip(scene, motion, ids)


def frame_of(clip, frame):
  """Renders one frame.

  Args:
    clip: a Clip.
    frame: the number, an int ≥ 0.

  Returns:
    dict: `image` uint8 [H, W, 3]; `segments` int32 [H, W], 0 = void; `objects`
    as `render.render` gives them, of what is seen in this frame.
  """
  scene = move(clip.scene, clip.motion, frame)
  image, number_HW, _ = render_scene(scene)
  thing_labels = [thing.label for thing in scene.things]
  segments, objects = describe(number_HW, clip.ids, thing_labels)
  return {
      "image": image,
      "segments": segments,
      "objects": objects,
  }


def render_frame(seed, index, frame, height=None, width=None):
  """Renders a frame of a clip; see `draw_clip` and `frame_of`."""
  keep_memory()
  clip = draw_clip(seed, index, height, width)
  return frame_of(clip, frame)


def render_clip(seed, index, num_frames=NUM_FRAMES, height=None, width=None):
  """Yields the frames of a clip; see `draw_clip` and `frame_of`."""
  keep_memory()
  clip = draw_clip(seed, index, height, width)
  for frame in range(num_frames):
    yield frame_of(clip, frame)
