"""Pix2Seq-D on videos: its start, its training, and what a frame depends on."""

import jax
import numpy as np
import pytest

from tests.trainers import tiny, tiny_pix2seq_d
from tests.trainers.test_pix2seq_d import family
from trainers.families.compiled import Compiled
from uvim import files, tree
from uvim.models.pix2seq_d import video, video_training
from uvim.priors.base import example_seeds
from uvim.registry import ConfigError

KERNEL = video_training.FIRST_KERNEL
# Of 6 bits, in patches of 4 pixels; then those of two frames before.
NUM_NOISY = 6 * 4
NUM_NEW = 2 * NUM_NOISY
OPTIONS = dict(num_steps=2, later_steps=1, seed=3)
# Two clips of three frames and one of two, so that clips lie in two batches.
CLIPS = np.array([5, 5, 5, 6, 6, 6, 9, 9], np.int32)
NUMBERS = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)


def video_family(**changes):
  return family(model={"frames_before": 2}, **changes)


def noisy_params(model):
  """Parameters whose masks are not all void, as in test_pix2seq_d."""
  shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
  noise = tiny_pix2seq_d.noise(shapes, 0)
  # What was before is the same at many places. The image must outweigh it.
  first = noise["denoiser"]["conv_in"]
  first["bias"] = 0 * first["bias"]
  first["kernel"][:, :, NUM_NOISY:-NUM_NEW] *= 10
  first["kernel"][:, :, -NUM_NEW:] /= 3
  return noise


@pytest.fixture(scope="module")
def predict():
  """The masks of all frames, from batches of four."""
  model = video_family()
  variables = model.variables(noisy_params(model), {}, None)
  compiled = Compiled(model)

  def run(frames):
    # The same program for all passes.
    program = compiled("video", **OPTIONS)
    masks = []
    for start in range(0, len(frames), 4):
      rows = slice(start, start + 4)
      batch = {"image": frames[rows], "clip/id": CLIPS[rows],
               "clip/frame": NUMBERS[rows]}
      masks.append(np.asarray(program(variables, batch)["panoptic"]))
    return np.concatenate(masks)

  return run


def test_a_video_is_the_same_in_any_batches(predict):
  frames = tiny.batch()["image"]
  masks = predict(frames)
  assert masks.dtype == np.int32 and masks.shape == (8, 16, 16, 2)
  # One frame after the other, each clip alone.
  model = video_family()
  params = noisy_params(model)
  options = dict(num_steps=2, later_steps=1)
  for clip in set(CLIPS.tolist()):
    of_clip = CLIPS == clip
    seeds_1 = example_seeds(np.array([clip]), OPTIONS["seed"])
    images = [image[None] for image in frames[of_clip]]
    alone = video.generate(model.model, params, images, seeds_1, **options)
    voted = [model._vote(labels, 0.0)[0] for labels in alone]
    np.testing.assert_array_equal(masks[of_clip], voted)


def test_a_frame_depends_on_itself_and_those_before_it(predict):
  frames = tiny.batch()["image"]
  changed = frames.copy()
  changed[4] = -changed[4]
  is_different = (predict(frames) != predict(changed)).any((1, 2, 3))
  assert is_different[4]
  # The frames before it, and another clip.
  assert not is_different[:4].any() and not is_different[6:].any()


@pytest.mark.parametrize("changes, message", [
    ({"clip/frame": [0, 2, 3, 4]}, "clip 5: frame 2 comes after frame 0 of"),
    ({"clip/id": [5, 6, 6, 6]}, "clip 6: frame 1 comes after frame 0 of"),
    ({"clip/frame": [1, 2, 3, 4]}, "clip 5: frame 1 comes after frame -1"),
    ({"clip/id": None}, "needs 'clip/id'"),
])
def test_frames_out_of_order_are_refused(changes, message):
  model = video_family()
  batch = {"clip/id": [5] * 4, "clip/frame": [0, 1, 2, 3]} | changes
  batch = {key: np.array(value) for key, value in batch.items() if value}
  with pytest.raises(ConfigError, match=message):
    # Nothing is compiled before the order is known.
    Compiled(model)("video")({}, batch)


# ── Training ────────────────────────────────────────────────────────────────


def with_before(step=0):
  batch = tiny.batch(step)
  # The same labels twice: what was there before is a strong hint.
  before = np.concatenate([batch["labels"], batch["labels"]], axis=-1)
  return batch | {"labels_before": before}


def test_an_instance_has_one_random_id_in_all_frames():
  model = video_family().model
  batch = with_before()
  rngs_B = jax.random.split(jax.random.key(1), len(batch["labels"]))
  drawn, before = jax.jit(video_training.draw, static_argnums=0)(
      model, batch["labels"], batch["labels_before"], rngs_B)
  assert drawn.noise.shape == (8, 16, 16, model.network.num_bits)
  assert not np.array_equal(drawn.labels, batch["labels"])
  num_hidden = 0
  for labels, two_frames in zip(drawn.labels, before, strict=True):
    for frame in (two_frames[..., :2], two_frames[..., 2:]):
      num_hidden += not np.any(frame)
      assert not np.any(frame) or np.array_equal(frame, labels)
  # Of 16, with a probability of 0.2 each.
  assert 0 < num_hidden < 10


def test_a_model_of_images_starts_one_of_videos(tmp_path):
  params = noisy_params(family())
  path = tmp_path / "images.npz"
  files.save_npz(path, {
      "params": params, "state": {"updates": np.zeros((), np.int32)}})
  model = video_family(model_init=str(path))
  started = tiny.open_family(model).initial
  old_kernel = tree.flatten({"params": params})[KERNEL]
  num_old = old_kernel.shape[-2]
  np.testing.assert_array_equal(started[KERNEL][..., :num_old, :], old_kernel)
  new_rows = started[KERNEL][..., num_old:, :]
  assert new_rows.shape[-2] == NUM_NEW and not new_rows.any()
  wrong = family(
      model={"frames_before": 2, "bottom_dim": 16}, model_init=str(path))
  with pytest.raises(ConfigError, match="denoiser/transformer"):
    tiny.open_family(wrong)


def test_the_loss_sees_the_earlier_masks():
  model = video_family()
  params = noisy_params(model)
  rngs_B = jax.random.split(jax.random.key(1), 8)

  @jax.jit
  def loss(batch):
    return model.loss(params, {}, None, batch, rngs_B, 0)[0]

  batch = with_before()
  # Of a class or an id that the model does not have is void.
  beyond = batch | {"labels_before": batch["labels_before"] + 100}
  void = batch | {"labels_before": 0 * batch["labels_before"]}
  assert loss(beyond) == loss(void) != loss(batch)


def test_labels_before_are_checked():
  model = video_family()
  model.check_batch(with_before())
  with pytest.raises(ConfigError, match="must keep 'labels_before'"):
    model.check_batch(tiny.batch())
  one_frame = tiny.batch() | {"labels_before": tiny.batch()["labels"]}
  with pytest.raises(ConfigError, match="frames_before = 2"):
    model.check_batch(one_frame)
  assert "video" not in family().predictors
  with pytest.raises(ConfigError, match="later_steps = 0"):
    model.check_options("video", {"later_steps": 0}, "config.x.pred_kw")


