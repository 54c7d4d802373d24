"""Workers: scenes from other processes, encoded, without TensorFlow."""

import io
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pp.rooms import worker
from pp.rooms.render import render

ROOT = pathlib.Path(__file__).resolve().parents[3]


def check_same(one, other):
  assert one["image"] == other["image"]
  assert one["panoptic_image"] == other["panoptic_image"]
  assert one["depth"] == other["depth"]
  np.testing.assert_equal(one["panoptic_objects"], other["panoptic_objects"])


def test_other_processes_render_the_same_bytes():
  here = list(worker.scenes(1, 5, processes=0))
  there = list(worker.scenes(1, 5, processes=2))
  assert [index for index, _ in there] == list(range(5))
  for (_, one), (_, other) in zip(here, there, strict=True):
    check_same(one, other)


def test_the_command_writes_pickled_scenes():
  command = [sys.executable, "-m", "pp.rooms.worker", "still", "1", "2",
             "5", "2"]
  done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE)
  file = io.BytesIO(done.stdout)
  for index in (2, 4):
    check_same(pickle.load(file), worker.encode(render(1, index)))
  assert file.read() == b""


def test_a_dead_worker_is_an_error_not_a_short_data_set(capfd):
  with pytest.raises(RuntimeError, match="scene 0 of stream -1"):
    list(worker.scenes(-1, 2, processes=1))  # No such stream.
  capfd.readouterr()


def test_renders_without_tensorflow_and_jax():
  code = ("import sys, pp.rooms.worker as w; w.render(0, 0, 16, 16); "
          "sys.exit('tensorflow' in sys.modules or 'jax' in sys.modules)")
  subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_encoded_images_are_jpeg_and_png():
  scene = worker.encode(render(0, 0, 32, 48))
  for key, kind in (("image", "JPEG"), ("panoptic_image", "PNG")):
    image = Image.open(io.BytesIO(scene[key]))
    assert image.format == kind
    assert image.size == (48, 32)
