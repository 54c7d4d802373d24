"""The pass over the images: batches, what was stopped, what does not fit."""

import functools
import json
import time

import numpy as np
import pytest
from PIL import Image

from uvim.cli import predict_files as predict_files_lib
from uvim.cli.predict_files import plan_batches, predict_files
from uvim.registry import ConfigError


def noise_image(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def three(tmp_path):
  folder = tmp_path / "three"
  folder.mkdir()
  for seed, name in enumerate(("a", "b", "5")):
    Image.fromarray(noise_image(16, 18, seed)).save(folder / f"{name}.png")
  return sorted(folder.iterdir())


@pytest.fixture
def uvim(weights, load_once):
  return load_once(str(weights[0]), lm=str(weights[1]))


class Failing:
  """A model that raises an error at some images.

  Attributes:
    num_asked: images that it was asked for.
  """

  def __init__(self, uvim, error, fails_at):
    """`fails_at`: (number of the image from 0, size of the batch) → bool."""
    self._uvim = uvim
    self._error = error
    self._fails_at = fails_at
    self.num_asked = 0

  def __getattr__(self, name):
    return getattr(self._uvim, name)

  def predict_seen(self, seen, settings, size):
    predictions = self._uvim.predict_seen(seen, settings, size)
    for prediction in predictions:
      number = self.num_asked
      self.num_asked += 1
      if self._fails_at(number, size):
        raise self._error
      yield prediction


class Waiting:
  """A model that predicts an image only when its neighbors are in work.

  The one after it must have been read, and the one before it written.
  """

  def __init__(self, uvim, num_images, files):
    """`files`: what the prediction of each image is written to."""
    self._uvim = uvim
    self._files = files
    self._num_images = num_images
    self._num_seen = 0
    self._num_asked = 0

  def __getattr__(self, name):
    return getattr(self._uvim, name)

  def see(self, original):
    seen = self._uvim.see(original)
    self._num_seen += 1
    return seen

  def predict_seen(self, seen, settings, size):
    for prediction in self._uvim.predict_seen(seen, settings, size):
      place = self._num_asked
      self._num_asked += 1
      wait_for(functools.partial(self._has_seen, place + 1))
      if place:
        wait_for(self._files[place - 1].exists)
      yield prediction

  def _has_seen(self, place):
    return self._num_seen > min(place, self._num_images - 1)


def wait_for(condition):
  for _ in range(600):
    if condition():
      return
    time.sleep(0.1)
  raise TimeoutError("nothing else goes on")


def names_done(out):
  summary = json.loads((out / "predictions.json").read_text())
  return [row["name"] for row in summary["images"]]


# ── Runs that were stopped ──────────────────────────────────────────────────


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_stopped_run_goes_on(
    uvim, three, tmp_path, capsys, batch_size):
  stopping = Failing(uvim, KeyboardInterrupt(), lambda number, _: number == 1)
  out = tmp_path / "out"
  with pytest.raises(KeyboardInterrupt):
    predict_files(stopping, three, out, batch_size=batch_size)
  # The first image of the batch is done, and no other.
  assert names_done(out) == ["5"]
  # Half a line, as a process that is killed leaves it.
  with open(out / "predictions.jsonl", "a") as file:
    file.write('{"type": "done", "na')
  assert not predict_files(uvim, three, out)
  assert "1 of 3 images are done already" in capsys.readouterr().out
  predict_files(uvim, three, tmp_path / "unbroken", batch_size=1)
  for name in ("panoptic.json", "panoptic/b.png"):
    assert (out / name).read_bytes() == (
        tmp_path / "unbroken" / name).read_bytes()
  assert names_done(out) == ["5", "a", "b"]
  # Nothing is left to do, so the model is not asked.
  asked = Failing(uvim, None, lambda *_: True)
  assert not predict_files(asked, three, out)
  assert asked.num_asked == 0


def test_more_images_keep_the_ids_of_the_others(uvim, three, tmp_path):
  out = tmp_path / "out"
  predict_files(uvim, three[:2], out)
  before = json.loads((out / "panoptic.json").read_text())["images"]
  more = tmp_path / "more"
  more.mkdir()
  Image.fromarray(noise_image(8, 8)).save(more / "5.png")
  predict_files(uvim, [more / "5.png", *three], out)
  after = json.loads((out / "panoptic.json").read_text())["images"]
  assert after[:2] == before and len({row["id"] for row in after}) == 4


def test_an_image_that_has_changed_is_not_taken_as_done(
    uvim, three, tmp_path):
  predict_files(uvim, three, tmp_path / "out")
  Image.new("RGB", (9, 9)).save(three[0])
  with pytest.raises(ConfigError, match="5.png: has changed since"):
    predict_files(uvim, three, tmp_path / "out")


def test_files_are_read_and_written_while_the_model_runs(
    uvim, three, tmp_path):
  out = tmp_path / "out"
  files = [out / "panoptic" / path.name for path in three]
  waiting = Waiting(uvim, len(three), files)
  assert not predict_files(waiting, three, out, batch_size=1)
  assert names_done(out) == ["5", "a", "b"]


# ── What does not fit into the memory, and what is no image ─────────────────


def test_a_batch_too_large_for_the_memory_runs_image_by_image(
    uvim, three, tmp_path):
  # The second image of the batch, and then the first one that runs alone.
  small = Failing(
      uvim, MemoryError(), lambda number, size: size > 1 and number == 1)
  assert not predict_files(small, three, tmp_path / "out", batch_size=4)
  assert small.num_asked == 4
  assert names_done(tmp_path / "out") == ["5", "a", "b"]


def test_an_image_too_large_for_the_memory_is_listed(uvim, three, tmp_path):
  small = Failing(uvim, MemoryError(), lambda number, _: number == 1)
  problems = predict_files(small, three, tmp_path / "out", batch_size=1)
  assert len(problems) == 1 and "a.png: too large" in problems[0]
  assert names_done(tmp_path / "out") == ["5", "b"]


def test_an_image_that_cannot_be_read_leaves_its_batch(uvim, three, tmp_path):
  # The header is whole, the pixels are not.
  content = three[1].read_bytes()
  three[1].write_bytes(content[:len(content) // 2])
  problems = predict_files(uvim, three, tmp_path / "out", batch_size=4)
  assert len(problems) == 1 and "a.png" in problems[0]
  assert names_done(tmp_path / "out") == ["5", "b"]


def test_an_error_of_the_model_is_no_problem_of_an_image(
    uvim, three, tmp_path):
  broken = Failing(uvim, ValueError("a bug"), lambda number, _: number == 2)
  with pytest.raises(ValueError, match="a bug"):
    predict_files(broken, three, tmp_path / "out")
  # What was predicted before is written.
  assert names_done(tmp_path / "out") == ["5", "a"]


# ── Batches ─────────────────────────────────────────────────────────────────


def sizes_of(paths, size):
  items = [(path.stem, path) for path in paths]
  batches = list(plan_batches(items, size, max_pixels=10**8))
  # No image is lost, and the order stays.
  planned = []
  for batch in batches:
    planned += batch.items
    assert len(batch.items) <= batch.size
  assert planned == items
  return [(len(batch.items), batch.size) for batch in batches]


def test_large_images_make_small_batches(three, tmp_path):
  half = round(predict_files_lib._MAX_PIXELS / 2)
  large = tmp_path / "large.png"
  Image.new("1", (half // 4096, 4096)).save(large)
  assert sizes_of([large] * 3, 8) == [(2, 2), (1, 2)]
  # More would be too many pixels. It is no reason to run a program for 8.
  assert sizes_of([three[0], large, large, three[0]], 8) == [(2, 2), (2, 2)]
  missing = tmp_path / "missing.png"
  assert sizes_of([*three, missing], 8) == [(4, 4)]


def test_the_last_batch_is_padded_to_the_size_of_the_one_before(three):
  assert sizes_of([*three, *three], 4) == [(4, 4), (2, 4)]
  assert sizes_of([*three, *three], 6) == [(6, 6)]
  assert sizes_of(three, 1) == [(1, 1)] * 3
  assert sizes_of(three, 4) == [(3, 4)]
