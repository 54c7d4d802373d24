"""Pix2Seq-D: what a mask depends on, its first loss, its sizes."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tree
from uvim.learn import sharding
from uvim.models import make_model
from uvim.models.pix2seq_d import video, waves
from uvim.registry import ConfigError

PAPER = dict(
    input_size=(1024, 1024), mask_size=(512, 512), num_classes=134,
    num_ids=101)
# One row at the bottom of the decoder: 8 × 16, then 4 × 8.
TINY = dict(
    input_size=(8, 16), mask_size=(4, 8), num_classes=134, num_ids=101,
    input_scale=1.0, stem="small", resnet_width=4,
    resnet_blocks=(1, 1), encoder_dim=8, encoder_depth=1, encoder_heads=2,
    encoder_mlp_dim=8, fuse_dim=8, decoder_dim=8, channel_multipliers=(1, 1, 2),
    bottom_dim=8, bottom_depth=1, bottom_heads=2)
IMAGE_ENCODER = dict(
    input_size=(8, 16), variant="Ti/4", depth=1, width=8, mlp_dim=8,
    num_heads=2)


def make(**changes):
  return make_model("pix2seq_d", TINY | changes, "config.model")


@functools.cache
def fresh(**changes):
  model = make(**changes)
  return model, jax.jit(model.init)(jax.random.key(0))


def decided(params):
  """The parameters with a last layer that is sure of what it says."""
  rng = np.random.default_rng(0)
  head = params["denoiser"]["conv_out"]
  kernel = rng.normal(size=head["kernel"].shape).astype(np.float32)
  head = {"kernel": kernel, "bias": head["bias"]}
  return {**params, "denoiser": {**params["denoiser"], "conv_out": head}}


def images(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (count, 8, 16, 3)).astype(np.float32)


# ── Masks ───────────────────────────────────────────────────────────────────


def test_a_mask_depends_on_its_image_its_seed_and_the_options_alone():
  model, params = fresh()
  params = decided(params)
  generate = functools.partial(model.generate, params, num_steps=2)
  image = images(2)
  masks = np.asarray(generate(image, jnp.array([5, 6])))
  assert masks.shape == (2, 4, 8, 2) and masks.dtype == np.int32
  assert len(np.unique(masks)) > 4
  # Another neighbour, such as padding, and another place in the batch.
  padded = np.stack([np.zeros_like(image[1]), image[0]])
  again = np.asarray(generate(padded, jnp.array([0, 5])))
  np.testing.assert_array_equal(again[1], masks[0])
  other_seed = np.asarray(generate(image, jnp.array([7, 6])))
  assert not np.array_equal(other_seed[0], masks[0])
  np.testing.assert_array_equal(other_seed[1], masks[1])


def test_a_mask_does_not_depend_on_the_devices():
  model, params = fresh()
  params = decided(params)
  seeds_B = np.array([5, 6])
  alone = model.generate(params, images(2), seeds_B, num_steps=2)
  mesh = sharding.make_mesh([("data", 2)])
  split = sharding.batch_sharding(mesh)
  shared = model.generate(
      jax.device_put(params, sharding.replicated(mesh)),
      jax.device_put(images(2), split), jax.device_put(seeds_B, split),
      num_steps=2)
  np.testing.assert_array_equal(shared, alone)


def test_unknown_samplers_and_numbers_of_steps_are_refused():
  model, params = fresh()
  for options, name in (({"num_steps": 0}, "num_steps"),
                        ({"sampler": "ddmi"}, "ddim"),
                        ({"time_difference": -1}, "time_difference")):
    with pytest.raises(ConfigError, match=name):
      model.generate(params, images(1), jnp.array([0]), **options)


# ── Training ────────────────────────────────────────────────────────────────


def test_an_untrained_network_finds_all_bit_patterns_alike():
  model, params = fresh()
  labels = jnp.asarray(np.random.default_rng(1).integers(0, 13, (2, 4, 8, 2)))

  @jax.jit
  def loss(params, image):
    seen = model.encode_image(params, image)
    rngs_B = jax.random.split(jax.random.key(1), 2)
    return model.loss(params, seen, model.draw(labels, rngs_B))

  loss_B, logs = loss(params, images(2))
  np.testing.assert_allclose(loss_B, math.log(256), rtol=1e-5)
  np.testing.assert_allclose(logs["loss_instances"], math.log(256), rtol=1e-5)


def test_what_is_drawn_for_an_example_depends_on_its_key_alone():
  model = make(self_condition=0.5)
  labels = jnp.asarray(np.random.default_rng(1).integers(0, 13, (3, 4, 8, 2)))
  rngs_B = jax.random.split(jax.random.key(1), 3)
  draw = jax.jit(model.draw)
  drawn = draw(labels, rngs_B)
  alone = draw(labels[1:2], rngs_B[1:2])
  for all_of_them, one in zip(drawn, alone, strict=True):
    np.testing.assert_array_equal(all_of_them[1:2], one)
  assert not np.array_equal(drawn.labels[..., 1], labels[..., 1])
  kept = jax.jit(make(random_ids=False).draw)(labels, rngs_B)
  np.testing.assert_array_equal(kept.labels, labels)


def test_self_conditioning_shows_some_examples_a_first_try():
  model, params = fresh(self_condition=0.5)
  params = decided(params)
  rngs_B = jax.random.split(jax.random.key(1), 2)
  drawn = jax.jit(model.draw)(jnp.ones((2, 4, 8, 2), jnp.int32), rngs_B)

  @jax.jit
  def loss(sees_estimate_B):
    seen = model.encode_image(params, images(2))
    loss_B, _ = model.loss(
        params, seen, drawn._replace(sees_estimate_B=sees_estimate_B))
    return loss_B

  without = loss(jnp.array([False, False]))
  with_first_try = loss(jnp.array([True, True]))
  assert np.all(without != with_first_try)
  np.testing.assert_array_equal(
      loss(jnp.array([True, False])), [with_first_try[0], without[1]])


def test_dropout_takes_from_an_example_by_its_key_alone():
  whole, params = fresh()
  model = make(encoder_dropout=0.5)
  image = images(3)

  def encode(seeds, model=model):
    rngs_B = jax.vmap(jax.random.key)(jnp.array(seeds))
    return model.encode_image(params, image, rngs_B).tokens

  encode_jitted = jax.jit(encode)
  tokens = encode_jitted([1, 2, 3])
  again = encode_jitted([7, 2, 8])
  np.testing.assert_array_equal(again[1], tokens[1])
  assert np.abs(again[0] - tokens[0]).max() > 1e-3

  def draws(model):
    program = jax.make_jaxpr(functools.partial(encode, model=model))
    return "random_bits" in str(program([1, 2, 3]))

  assert draws(model)
  assert not draws(whole)


# ── Sizes ───────────────────────────────────────────────────────────────────


def count_arrays(model):
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return {name: math.prod(array.shape)
          for name, array in tree.flatten(shapes).items()}


def test_the_published_model_has_its_number_of_parameters():
  model = make_model("pix2seq_d", PAPER, "config.model")
  counts = count_arrays(model)
  assert len(counts) == 679
  assert sum(counts.values()) == 94_492_480
  parts = {}
  for name, count in counts.items():
    part = name.partition("/")[0]
    parts[part] = parts.get(part, 0) + count
  assert parts == {
      "rest": 46_898_752, "encoder_fuse": 4_003_840, "denoiser": 43_589_888}


def test_training_never_holds_all_scores_of_a_mask():
  fields = PAPER | {"scan_layers": True, "encoder_dropout": 0.1}
  model = make_model("pix2seq_d", fields, "config.model")
  num_classes = model.network.num_numbers // 2
  assert math.log(num_classes) == pytest.approx(5.5452, abs=1e-4)
  params = jax.eval_shape(model.init, jax.random.key(0))

  def loss(params, image, labels):
    rngs_B = jax.random.split(jax.random.key(0), 1)
    seen = model.encode_image(params, image, rngs_B)
    loss_B, _ = model.loss(params, seen, model.draw(labels, rngs_B))
    return jnp.mean(loss_B)

  image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((1, 512, 512, 2), jnp.int32)
  program = jax.make_jaxpr(jax.value_and_grad(loss))(params, image, labels)
  shapes = re.findall(r"f32\[([\d,]+)\]", str(program))
  largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
  # The largest is the widest map of the decoder. All scores would be larger.
  assert largest == 512 * 512 * (256 + 128) < 512 * 512 * 2 * num_classes


@pytest.mark.parametrize("changes,num_inputs", [
    ({"frames_before": 2}, 2 * 16), ({"self_condition": 0.5}, 16)])
def test_other_masks_add_channels_to_the_first_layer_alone(changes, num_inputs):
  counts = count_arrays(make())
  of_other = count_arrays(make(**changes))
  differing = [name for name in counts if counts[name] != of_other[name]]
  assert differing == ["denoiser/conv_in/kernel"]
  added = of_other[differing[0]] - counts[differing[0]]
  assert added == num_inputs * 8


def test_how_blocks_are_computed_changes_no_parameter():
  changed = make(scan_layers=True, remat="block", dtype="bfloat16")
  assert count_arrays(changed) == count_arrays(make())


@pytest.mark.parametrize("changes", [
    {"mask_patch": 2, "mask_size": (8, 16)},
    {"frames_before": 1, "output": "eps"},
    {"image_encoder": IMAGE_ENCODER, "dtype": "bfloat16"},
    {"norm": "frozen_batch", "scan_layers": True, "remat": "block"},
])
def test_every_form_makes_masks(changes):
  model = make(**changes)
  params = jax.eval_shape(model.init, jax.random.key(0))
  generate = functools.partial(model.generate, sampler="ddpm", num_steps=2)
  masks = jax.eval_shape(
      generate, params, images(2), jax.ShapeDtypeStruct((2,), jnp.int32))
  assert masks.shape == (2, *model.network.mask_size, 2)
  assert masks.dtype == jnp.int32


def test_a_video_has_a_mask_for_each_of_its_frames():
  model = make(frames_before=2)
  params = jax.eval_shape(model.init, jax.random.key(0))

  def generate(params, seeds_B):
    frames = [images(2)] * 3
    return list(video.generate(
        model, params, frames, seeds_B, num_steps=2, later_steps=1))

  masks = jax.eval_shape(
      generate, params, jax.ShapeDtypeStruct((2,), jnp.uint32))
  assert [mask.shape for mask in masks] == [(2, 4, 8, 2)] * 3
  with pytest.raises(ConfigError, match="frames_before = 0"):
    next(video.generate(make(), params, [], jnp.array([0])))


# ── Fields that do not fit ──────────────────────────────────────────────────


@pytest.mark.parametrize("changes,words", [
    # The bottom map would be a single place.
    ({"mask_size": (4, 4)}, "mask_size.*one of them larger"),
    ({"mask_size": (6, 8)}, "mask_size.*multiples of 4"),
    ({"mask_size": (4, 8), "mask_patch": 2}, "mask_size.*multiples of 8"),
    ({"mask_size": (8, 8)}, "mask_size.*encoder's maps"),
    ({"input_size": (8, 15)}, "input_size.*multiples of 4"),
    ({"input_size": (4, 4), "mask_size": (8, 8)}, "input_size.*larger"),
    # More classes, or more ids, than the bits hold.
    ({"num_classes": 257}, "num_bits = 16.*semantics.*at least 18"),
    ({"num_bits": 12}, "num_bits = 12.*semantics.*at least 16"),
    ({"num_ids": 300}, "num_bits = 16.*instances.*at least 18"),
    ({"num_bits": 17}, "num_bits = 17.*multiple of 2"),
    ({"encoder_heads": 3}, "encoder_heads = 3.*divisor of encoder_dim 8"),
    ({"bottom_heads": 3}, "bottom_heads = 3.*divisor of bottom_dim 8"),
    ({"encoder_dim": 6}, "encoder_dim = 6.*multiple of 4"),
    ({"decoder_dim": 7}, "decoder_dim = 7.*multiple of 2"),
    ({"output": "softmx"}, "output = 'softmx'.*softmax"),
    ({"channel_multipliers": ()}, "channel_multipliers"),
    ({"image_encoder": IMAGE_ENCODER | {"input_size": (16, 16)}},
     "input_size.*image_encoder"),
    ({"image_encoder": IMAGE_ENCODER | {"beside": True}},
     "image_encoder.beside = True.*must be False"),
])
def test_fields_that_do_not_fit_are_named(changes, words):
  with pytest.raises(ConfigError, match=f"config.model.{words}") as caught:
    make(**changes)
  assert "\n" not in str(caught.value)


def test_a_line_of_places_has_the_code_of_a_line():
  line = waves.of_grid((1, 5), 8)
  numbers = jnp.linspace(0, 2 * jnp.pi, 5)
  expected = waves.of_numbers(numbers, 8)[None]
  np.testing.assert_allclose(line, expected, atol=1e-5)
  np.testing.assert_array_equal(waves.of_grid((5, 1), 8), line)
  corners = waves.of_grid((2, 3), 8)[0]
  # Row by row: the first three differ in the half of the columns alone.
  np.testing.assert_array_equal(corners[0, :4], corners[2, :4])
  np.testing.assert_array_equal(corners[0, 4:], corners[3, 4:])
