"""Renders and encodes scenes in processes of their own, without TensorFlow.

`python -m pp.rooms.worker KIND SEED START STOP STEP` writes the scenes of
`range(START, STOP, STEP)` to its standard output, pickled one after another.
KIND is a key of RENDERERS: a still image, or a clip.
The processes are plain subprocesses and not `multiprocessing`: a spawned pool
would import the main module of the caller again in each worker, and with it
TensorFlow, JAX, and scripts without a main guard.
"""

import contextlib
import io
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image

from pp import clip_records
from pp.rooms.clips import clip_id, render_clip
from pp.rooms.render import render

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# The usual zlib level 6 takes twice as long and saves a tenth.
_ZLIB_LEVEL = 3


def _encode_image(array, **options):
  """The bytes of an image file; `options` are those of PIL's `save`."""
  file = io.BytesIO()
  Image.fromarray(array).save(file, **options)
  return file.getvalue()


def _encode_color(image):
  """A JPEG file: it decodes twice as fast as PNG."""
  # Chroma subsampling would smear the colors of things this small.
  return _encode_image(image, format="jpeg", quality=95, subsampling=0)


def _encode_objects(objects, shape):
  """The objects of `render` as TFDS stores them: one array for each field.

  Boxes become fractions of the image.
  """
  dtypes = {
      "id": np.int64,
      "area": np.int64,
      "label": np.int64,
      "is_crowd": np.bool_,
  }
  fields = {}
  for name, dtype in dtypes.items():
    fields[name] = np.array([item[name] for item in objects], dtype)
  # top, left, bottom, right
  boxes = np.array([item["bbox"] for item in objects]).reshape(-1, 4)
  fields["bbox"] = (boxes / (shape * 2)).astype(np.float32)
  return fields


def encode(scene):
  """Encodes a scene of `render` as TFDS stores it.

  Returns:
    dict: `image`, a JPEG file; `panoptic_image`, a PNG file of the segment ids
    as R + 256 G + 65536 B; `panoptic_objects`, a dict of arrays; `depth`, shape
    and compressed values.
  """
  segments = scene["segments"]
  depth = scene["depth"][..., None]
  # The first three bytes of each little-endian id.
  id_bytes = segments.astype("<i4")[..., None].view(np.uint8)
  id_colors = np.ascontiguousarray(id_bytes[..., :3])
  panoptic_image = _encode_image(
      id_colors, format="png", compress_level=_ZLIB_LEVEL)
  return {
      "image": _encode_color(scene["image"]),
      "panoptic_image": panoptic_image,
      "panoptic_objects": _encode_objects(scene["objects"], segments.shape),
      "depth": {
          "shape": depth.shape,
          "value": zlib.compress(depth, _ZLIB_LEVEL),
      },
  }


def _encode_still(seed, index):
  """A scene as `encode` returns it."""
  return encode(render(seed, index))


def _encode_clip(seed, index):
  """The frames of a clip, a list of dicts as TFDS stores them."""
  number = clip_id(seed, index)
  maps = []
  encoded = []
  for frame, scene in enumerate(render_clip(seed, index)):
    segments = scene["segments"]
    objects = scene["objects"]
    label_of_id = {item["id"]: item["label"] for item in objects}
    current = clip_records.encode_map(segments, label_of_id, _ZLIB_LEVEL)
    void = clip_records.encode_map(
        np.zeros_like(segments), {}, _ZLIB_LEVEL)
    encoded.append({
        "image": _encode_color(scene["image"]),
        "panoptic_image": current.png,
        "panoptic_objects": _encode_objects(objects, segments.shape),
        **clip_records.frame_fields(number, frame, current, maps, void),
    })
    maps.append(current)
  return encoded


# Kind of data set → (seed, index) → what is written for a scene.
RENDERERS = {"still": _encode_still, "clip": _encode_clip}


def _start_worker(kind, seed, start, stop, step):
  """Starts a process that writes scenes to a pipe."""
  environment = dict(os.environ)
  search_path = [str(_ROOT)]
  if environment.get("PYTHONPATH"):
    search_path.append(environment["PYTHONPATH"])
  environment["PYTHONPATH"] = os.pathsep.join(search_path)
  environment["OMP_NUM_THREADS"] = "1"
  numbers = [str(number) for number in (seed, start, stop, step)]
  command = [sys.executable, "-m", "pp.rooms.worker", kind, *numbers]
  # In a session of its own: Ctrl-C is for the caller, which ends the workers.
  return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment,
                          start_new_session=True)


def _render_here(kind, seed, num):
  for index in range(num):
    yield index, RENDERERS[kind](seed, index)


def scenes(seed, num, *, kind="still", processes=None):
  """Renders and encodes scenes 0..num-1 of stream `seed`, in order.

  Args:
    seed: the stream.
    num: how many scenes.
    kind: a key of RENDERERS.
    processes: number of workers; None: one per core; 0: render right here.

  Yields:
    (index, what the renderer of this kind returns).

  Raises:
    RuntimeError: when a worker dies; its own message is on standard error.
  """
  if processes is None:
    processes = os.cpu_count()
  processes = min(processes, num)
  if processes == 0:
    yield from _render_here(kind, seed, num)
    return
  with contextlib.ExitStack() as stack:
    workers = []
    for first in range(processes):
      worker = _start_worker(kind, seed, first, num, processes)
      stack.enter_context(worker)
      # The caller may stop half-way. A worker with a full pipe would then block
      # forever, and so would waiting for it.
      stack.callback(worker.kill)
      workers.append(worker)
    for index in range(num):
      worker = workers[index % processes]
      try:
        scene = pickle.load(worker.stdout)
      except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"The process that renders scene {index} of stream {seed} ended "
            "early.") from error
      yield index, scene


def main():
  # If the caller is killed, nobody reads the pipe: then it ends in silence.
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  kind, *numbers = sys.argv[1:]
  seed, start, stop, step = [int(number) for number in numbers]
  for index in range(start, stop, step):
    pickle.dump(RENDERERS[kind](seed, index), sys.stdout.buffer)
  sys.stdout.buffer.flush()


if __name__ == "__main__":
  main()
