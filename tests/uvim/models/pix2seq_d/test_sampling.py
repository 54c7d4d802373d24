"""From noise to a mask in steps, with a function in place of the network."""

import jax.numpy as jnp
import numpy as np
import pytest

from uvim.diffusion import bits
from uvim.models.pix2seq_d import sampling, video
from uvim.registry import ConfigError

SCALE = 0.1
SIZES = (134, 101)
# Void, an instance without a class, the last class with the last id, and a
# class that is no power of two.
LABELS = np.array([[[[0, 0], [0, 7], [133, 100], [77, 1]]]], np.int32)


def noise(shape=(1, 4, 16), seeds=(3,)):
  return sampling.noise_of_seeds(jnp.array(seeds), shape)


def generate(denoise, draw_noise=None, **changes):
  options = dict(
      num_steps=3, time_difference=1.0, sampler="ddim", schedule="cosine")
  return sampling.generate(
      denoise, draw_noise or noise(), **(options | changes))


@pytest.mark.parametrize("changes", [
    {"num_steps": 1}, {"num_steps": 2, "time_difference": 5.0},
    {"time_difference": 0.0}, {"sampler": "ddpm"}, {"sampler": "ddpm_small"},
])
def test_who_knows_the_mask_ends_at_it(changes):
  analog = bits.encode_map(LABELS, 16, SCALE)
  result = generate(lambda noisy, level, before: analog, **changes)
  np.testing.assert_array_equal(bits.decode_map(result, SIZES), LABELS)


def test_the_last_of_more_steps_sees_less_noise():
  def say_deviation(noisy, level, before):
    return jnp.full_like(noisy, jnp.sqrt(level.noise))

  few = generate(say_deviation, num_steps=2, time_difference=0.0)
  many = generate(say_deviation, num_steps=8, time_difference=0.0)
  assert float(many.max()) < float(few.max()) < 1


def test_a_step_sees_what_the_one_before_took_for_the_mask():
  def count(noisy, level, before):
    return before + 1

  result = generate(count, num_steps=3)
  np.testing.assert_array_equal(result, np.full_like(result, 3))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_kept_steps_are_those_of_the_sampling(sampler):
  def denoise(noisy, level, before):
    # What it says differs from step to step and from pixel to pixel.
    return jnp.tanh(noisy) * level.noise

  def generate_steps(kept):
    return sampling.generate_steps(
        denoise, noise(), jnp.array(kept), lambda analog: analog, num_steps=4,
        time_difference=1.0, sampler=sampler, schedule="cosine")

  every = generate_steps([1, 2, 3, 4])
  seen = generate_steps([2, 4])
  np.testing.assert_array_equal(every.noisy[0], noise()(0))
  np.testing.assert_array_equal(seen.noisy, every.noisy[1::2])
  np.testing.assert_array_equal(seen.clean, every.clean[1::2])
  assert not np.array_equal(every.clean[0], every.clean[1])
  last = generate(denoise, num_steps=4, sampler=sampler)
  np.testing.assert_array_equal(every.clean[-1], last)


@pytest.mark.parametrize("kept", [[], [0, 1], [2, 5], [2, 1], [1, 1], [True]])
def test_only_steps_that_there_are_can_be_kept(kept):
  with pytest.raises(ConfigError, match="from 1 to num_steps = 4"):
    sampling.check_kept(kept, 4)


def test_noise_has_the_deviation_one_whatever_the_bits_are():
  start = noise((32, 32, 16))(0)
  assert abs(float(jnp.std(start)) - 1) < 0.02


def test_noise_of_an_example_depends_on_its_seed_alone():
  several = noise(seeds=(5, 3, 8))(2)
  np.testing.assert_array_equal(several[1:2], noise(seeds=(3,))(2))
  assert not np.array_equal(several[0], several[1])
  assert not np.array_equal(noise()(0), noise()(1))


def test_a_frame_sees_the_labels_of_the_frames_before_it():
  void = jnp.zeros((1, 2, 2, 1), jnp.int32)
  seen = []

  def label_frame(index, frame, before):
    seen.append(before[0, 0, 0].tolist())
    return void + frame

  frames = list(video.stream(label_frame, [7, 8, 9, 10], void, 2))
  assert seen == [[0, 0], [0, 7], [7, 8], [8, 9]]
  assert [int(frame[0, 0, 0, 0]) for frame in frames] == [7, 8, 9, 10]


def test_rows_in_chunks_give_what_all_rows_give():
  x = np.arange(2 * 4 * 3 * 1, dtype=np.float32).reshape(2, 4, 3, 1)
  # Twice as many rows, as with patches of two pixels a side.
  fine = np.arange(2 * 8 * 3 * 1, dtype=np.float32).reshape(2, 8, 3, 1)

  def add(arrays):
    coarse_rows, fine_rows = arrays
    return jnp.repeat(coarse_rows, 2, axis=1) * 100 + fine_rows

  whole = sampling.map_by_rows(add, (x, fine), 1)
  np.testing.assert_array_equal(sampling.map_by_rows(add, (x, fine), 2), whole)
