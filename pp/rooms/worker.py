"""Renders and encodes scenes in processes of their own, without TensorFlow.

`python -m pp.rooms.worker SEED START STOP STEP` writes scenes to its standard
output. Plain subprocesses rather than `multiprocessing`: a spawned pool would
import the caller's main module again (TensorFlow, JAX, and scripts without a
main guard) in every worker.
"""

import contextlib
import io
import os
import pathlib
import pickle
import subprocess
import sys
import zlib

import numpy as np
from PIL import Image

from pp.rooms.render import render

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _encoded(array, **options):
  file = io.BytesIO()
  Image.fromarray(array).save(file, **options)
  return file.getvalue()


def _objects(objects, shape):
  """`objects` of `render` by field, boxes in fractions of the image."""
  fields = {key: np.array([item[key] for item in objects], dtype)
            for key, dtype in (("id", np.int64), ("area", np.int64),
                               ("label", np.int64), ("is_crowd", np.bool_))}
  boxes = np.array([item["bbox"] for item in objects]).reshape(-1, 4)
  return {**fields, "bbox": (boxes / (shape * 2)).astype(np.float32)}


def encode(scene):
  """`scene` of `render` as TFDS stores it; ids are R + 256 G + 65536 B."""
  ids, depth = scene["segments"], scene["depth"][..., None]
  colors = ids.astype("<i4")[..., None].view(np.uint8)[..., :3]
  # JPEG decodes twice as fast as PNG; without chroma subsampling, which would
  # smear the colours of things this small. The usual level 6 of zlib takes
  # twice as long to save a tenth.
  return {
      "image": _encoded(scene["image"], format="jpeg", quality=95,
                        subsampling=0),
      "panoptic_image": _encoded(np.ascontiguousarray(colors), format="png",
                                 compress_level=3),
      "panoptic_objects": _objects(scene["objects"], ids.shape),
      "depth": {"shape": depth.shape, "value": zlib.compress(depth, 3)},
  }


def _start(seed, start, stop, step):
  path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get(
      "PYTHONPATH")]))
  command = [sys.executable, "-m", "pp.rooms.worker",
             *map(str, (seed, start, stop, step))]
  return subprocess.Popen(command, stdout=subprocess.PIPE, env={
      **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def scenes(seed, num, *, processes=None):
  """Yields (index, encoded scene) for index 0..num-1 of stream `seed`.

  Args:
    seed: the stream.
    num: how many scenes.
    processes: workers; default one per core, 0 to render right here.

  Raises:
    RuntimeError: when a worker dies; its own message is on standard error.
  """
  processes = min(os.cpu_count() if processes is None else processes, num)
  if not processes:
    yield from ((i, encode(render(seed, i))) for i in range(num))
    return
  with contextlib.ExitStack() as stack:
    workers = []
    for k in range(processes):
      workers.append(stack.enter_context(_start(seed, k, num, processes)))
      # Also when the caller stops half-way: a full pipe would block forever.
      stack.callback(workers[-1].kill)
    for i in range(num):
      try:
        yield i, pickle.load(workers[i % processes].stdout)
      except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(f"The process that renders scene {i} of stream "
                           f"{seed} ended early.") from error


def main():
  seed, *span = map(int, sys.argv[1:])
  for i in range(*span):
    pickle.dump(encode(render(seed, i)), sys.stdout.buffer)
  sys.stdout.buffer.flush()


if __name__ == "__main__":
  main()
