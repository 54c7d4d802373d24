"""Clips of rooms: what moves, what stays the same, and their records."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from pp import builder as pp_builder
from pp import clip_records, sources
from pp.rooms import builder as rooms
from pp.rooms import clips, worker
from pp.rooms.motion import move
from pp.rooms.render import render
from pp.rooms.things import footprint
from uvim import pixels


@pytest.fixture(scope="module")
def frames():
  """A clip of 24 small frames."""
  return list(clips.render_clip(3, 5, height=48, width=64))


def test_a_frame_follows_from_three_numbers(frames):
  alone = clips.render_frame(3, 5, 17, height=48, width=64)
  np.testing.assert_equal(alone, frames[17])
  other = clips.render_frame(3, 6, 17, height=48, width=64)
  assert np.any(other["image"] != alone["image"])


def test_a_clip_starts_with_the_scene_of_its_numbers(frames):
  still = render(3, 5, 48, 64)
  difference = frames[0]["image"].astype(int) - still["image"]
  # The camera is put together again from its angles, in float32.
  assert np.abs(difference).mean() < 0.5


def test_an_instance_keeps_its_id(frames):
  clip = clips.draw_clip(3, 5, 48, 64)
  label_of_id = {}
  for frame in frames:
    for item in frame["objects"]:
      assert label_of_id.setdefault(item["id"], item["label"]) == item["label"]
      assert np.sum(frame["segments"] == item["id"]) == item["area"]
  for number, thing in enumerate(clip.scene.things):
    # Hidden things have no label here.
    assert label_of_id.get(clip.ids[number], thing.label) == thing.label
  assert len(label_of_id) >= len(frames[0]["objects"])


def test_segments_move_a_little_from_frame_to_frame(frames):
  maps = np.stack([frame["segments"] for frame in frames])
  changed = np.mean(maps[1:] != maps[:-1], axis=(1, 2))
  assert np.all(changed > 0)
  assert np.all(changed < 0.25)
  # But a lot from the first to the last.
  assert np.mean(maps[0] != maps[-1]) > 0.15


def test_things_never_meet_and_stay_in_the_room():
  num_moving = 0
  for index in range(20):
    clip = clips.draw_clip(4, index)
    num_moving += sum(bool(thing.way.any()) for thing in clip.motion.things)
    for frame in range(0, 60, 6):
      scene = move(clip.scene, clip.motion, frame)
      for thing in scene.things:
        assert np.all(thing.origin[::2] > 0)
        assert np.all(thing.origin[::2] < scene.room[::2])
      for one, other in itertools.combinations(scene.things, 2):
        distance = np.hypot(*(one.origin - other.origin)[::2])
        # A path is tested at nine points, so it may be a little closer.
        assert distance > 0.9 * (footprint(one) + footprint(other))
      eye_to_far_side = scene.room - scene.camera.eye
      assert np.all(scene.camera.eye > 0) and np.all(eye_to_far_side > 0)
  assert num_moving > 20


# ── Records ─────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """The split `train` of a data set of one clip."""
  data_dir = tmp_path_factory.mktemp("clips")
  config = rooms.RoomsConfig(
      name="few_clips", sizes={"train": 1}, is_clips=True,
      seeds=rooms.CLIP_SEEDS,
      scenes=functools.partial(worker.scenes, kind="clip", processes=0))
  builder = rooms.build(data_dir, config)
  return sources.Source(builder, "rooms/few_clips", "train")


def test_records_are_the_frames_in_order(source):
  assert source.num_examples == clips.NUM_FRAMES
  rendered = list(clips.render_clip(rooms.CLIP_SEEDS["train"], 0))
  image_ids = set()
  for number in (0, 1, 2, 23):
    example = source.example(number)
    assert example["clip/id"] == clips.clip_id(3, 0)
    assert example["clip/frame"] == number
    image_ids.add(int(example["image/id"]))
    maps = [example["panoptic_image"], example["clip/image_1"],
            example["clip/image_2"]]
    ids = set()
    for back, colors in enumerate(maps):
      segments = pixels.ids_from_rgb(colors)
      if number >= back:
        np.testing.assert_array_equal(
            segments, rendered[number - back]["segments"])
        ids |= {item["id"] for item in rendered[number - back]["objects"]}
      else:
        assert not segments.any()
    assert example["clip/objects"]["id"].tolist() == sorted(ids)
  assert len(image_ids) == 4


def test_the_named_configs_render_clips(tmp_path):
  configs = rooms.Builder.BUILDER_CONFIGS
  of_clips = {config.name for config in configs if config.is_clips}
  assert of_clips == set(rooms.CLIP_SIZES) == {"clips", "clips_tiny"}
  tiny = rooms.Builder(config="clips_tiny", data_dir=tmp_path)
  assert tiny.num_examples == 4 * clips.NUM_FRAMES
  # No clip starts with a scene of the stills.
  assert not set(rooms.CLIP_SEEDS.values()) & set(rooms.SEEDS.values())


def test_the_op_numbers_instances_alike_in_all_maps(source):
  preprocess = pp_builder.build("clip_panoptic")
  for number in (0, 1, 5):
    tensors = source.tensors(number)
    out = preprocess(tensors)
    raw = {key: pixels.ids_from_rgb(np.asarray(tensors[key]))
           for key in ("panoptic_image", *clip_records.MAP_KEYS)}
    objects = {key: value.numpy()
               for key, value in tensors["clip/objects"].items()}
    # Slowly, object by object.
    expected = {key: np.zeros((*ids.shape, 2), np.int32)
                for key, ids in raw.items()}
    rows = zip(objects["id"], objects["label"], strict=True)
    for place, (object_id, label) in enumerate(rows, start=1):
      for key, ids in raw.items():
        expected[key][ids == object_id] = (label + 1, place)
    np.testing.assert_array_equal(out["labels"], expected["panoptic_image"])
    before = np.concatenate(
        [expected["clip/image_2"], expected["clip/image_1"]], -1)
    np.testing.assert_array_equal(out["labels_before"], before)
    assert out["clip/frame"].dtype == out["clip/id"].dtype == tf.int32
    assert out["clip/frame"] == number


def test_a_still_image_is_no_frame():
  with pytest.raises(Exception, match="clip/objects"):
    pp_builder.build("clip_panoptic")({"image": tf.zeros((2, 2, 3), tf.uint8)})
