"""The masked autoencoder: what it sees, and what it learns."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uvim import tree
from uvim.encoders.base import PARTS
from uvim.models import mae_network, make_model
from uvim.registry import ConfigError

SIZES = dict(
    input_size=(16, 24), patch_size=(4, 8), width=16, depth=1, mlp_dim=16,
    num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
NUM_PATCHES = 12
NUM_SEEN = 3


def make(**changes):
  return make_model("mae", SIZES | changes, "config.model")


@functools.cache
def fresh(**changes):
  model = make(**changes)
  return model, jax.jit(model.init)(jax.random.key(0))


def images(seed=0, batch=2):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (batch, 16, 24, 3)).astype(np.float32)


def noise(seed=0, batch=2):
  rngs_B = jax.random.split(jax.random.key(seed), batch)
  return compiled(make(), "draw_noise")(rngs_B)


@functools.cache
def compiled(model, name):
  """A method of the model, jitted."""
  return jax.jit(getattr(model, name))


def is_masked(model, noise_BN):
  return np.asarray(compiled(model, "mask")(noise_BN)) > 0


def patches_by_hand(image):
  """[B, N, X], one patch after the other."""
  patches = []
  for top in range(0, 16, 4):
    for left in range(0, 24, 8):
      patch = image[:, top:top + 4, left:left + 8]
      patches.append(patch.reshape(len(image), -1))
  return np.stack(patches, axis=1)


def replace_patches(image, is_replaced_BN, value):
  """The image with one value in all pixels of some patches."""
  out = image.copy()
  for example, place in np.argwhere(is_replaced_BN):
    row, column = divmod(place, 3)
    out[example, row * 4:row * 4 + 4, column * 8:column * 8 + 8] = value
  return out


@pytest.mark.parametrize("ratio,num_seen", [
    (0.75, 3), (0.5, 6), (0.8, 2), (0.1, 10), (0.9, 1)])
def test_as_many_patches_are_seen_as_the_ratio_leaves(ratio, num_seen):
  model = make(mask_ratio=ratio)
  is_masked_BN = is_masked(model, noise())
  np.testing.assert_array_equal((~is_masked_BN).sum(1), num_seen)
  assert num_seen == math.floor(NUM_PATCHES * (1 - ratio))


def test_the_mask_of_an_example_depends_on_its_key_alone():
  rngs_B = jax.random.split(jax.random.key(1), 6)
  model = make()
  draw = compiled(model, "draw_noise")
  is_masked_BN = is_masked(model, draw(rngs_B))
  alone = is_masked(model, draw(rngs_B[4:5]))
  np.testing.assert_array_equal(is_masked_BN[4], alone[0])
  assert len(np.unique(is_masked_BN, axis=0)) > 1


def test_masks_reach_all_patches_alike():
  rngs_B = jax.random.split(jax.random.key(2), 4000)
  model = make()
  draw = compiled(model, "draw_noise")
  share_N = is_masked(model, draw(rngs_B)).mean(0)
  np.testing.assert_allclose(share_N, 0.75, atol=0.04)


@pytest.mark.parametrize("style", ["augreg", "mae", "clip", "dinov2_reg4"])
def test_the_prediction_knows_only_the_patches_that_are_seen(style):
  model, params = fresh(encoder_style=style)
  image, noise_BN = images(), noise()
  is_masked_BN = is_masked(model, noise_BN)
  predict = compiled(model, "predict")
  before = predict(params, image, noise_BN)
  assert before.shape == (2, NUM_PATCHES, 4 * 8 * 3)
  unseen = replace_patches(image, is_masked_BN, 0.7)
  np.testing.assert_array_equal(predict(params, unseen, noise_BN), before)
  seen = replace_patches(image, ~is_masked_BN, 0.7)
  assert np.abs(predict(params, seen, noise_BN) - before).max() > 1e-3


def test_only_which_patches_are_seen_counts_and_not_their_order():
  model, params = fresh()
  noise_BN = np.asarray(noise())
  is_masked_BN = is_masked(model, noise_BN)
  # The same patches are seen, in the opposite order; the masked ones likewise.
  turned_BN = np.where(is_masked_BN, 3 - noise_BN, 1 - noise_BN)
  np.testing.assert_array_equal(is_masked(model, turned_BN), is_masked_BN)
  predict = compiled(model, "predict")
  np.testing.assert_allclose(
      predict(params, images(), turned_BN),
      predict(params, images(), noise_BN), atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_mean_over_masked_patches(norm_pix_loss):
  model, params = fresh(norm_pix_loss=norm_pix_loss)
  image, noise_BN = images(), noise()
  target = patches_by_hand(image).astype(np.float64)
  if norm_pix_loss:
    mean = target.mean(-1, keepdims=True)
    deviation = target.std(-1, keepdims=True, ddof=1)
    target = (target - mean) / deviation
  predicted = compiled(model, "predict")(params, image, noise_BN)
  predicted = np.asarray(predicted, np.float64)
  is_masked_BN = is_masked(model, noise_BN)
  wanted = [np.square(predicted[i] - target[i])[is_masked_BN[i]].mean()
            for i in range(2)]
  loss_B = compiled(model, "loss")(params, image, noise_BN)
  np.testing.assert_allclose(loss_B, wanted, rtol=1e-4)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_reconstruction_keeps_what_was_seen(norm_pix_loss):
  model, params = fresh(norm_pix_loss=norm_pix_loss)
  image, noise_BN = images(), noise()
  filled = np.asarray(
      compiled(model, "reconstruct")(params, image, noise_BN))
  patches = patches_by_hand(image)
  is_masked_BN = is_masked(model, noise_BN)
  np.testing.assert_array_equal(filled[~is_masked_BN], patches[~is_masked_BN])
  predicted = np.asarray(compiled(model, "predict")(params, image, noise_BN))
  if norm_pix_loss:
    # With the mean and the deviation of the patch itself.
    predicted = (predicted * patches.std(-1, keepdims=True, ddof=1)
                 + patches.mean(-1, keepdims=True))
  np.testing.assert_allclose(
      filled[is_masked_BN], predicted[is_masked_BN], atol=1e-4)


def test_a_patch_of_one_color_has_a_finite_loss():
  model, params = fresh()
  image = np.full((2, 16, 24, 3), 0.3, np.float32)
  loss, grads = jax.jit(jax.value_and_grad(
      lambda params: model.loss(params, image, noise()).mean()))(params)
  assert np.isfinite(loss)
  assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


def test_all_parameters_but_the_waves_learn():
  model, params = fresh(encoder_style="mae")
  grads = jax.jit(jax.grad(
      lambda params: model.loss(params, images(), noise()).mean()))(params)
  for name, grad in tree.flatten(grads).items():
    # A key's bias shifts all scores of a query alike.
    if not name.endswith("key/bias"):
      assert (np.abs(grad).max() > 0) == (name not in mae_network.FIXED), name


def test_an_encoder_of_stage_ii_has_the_same_arrays():
  """So that a run of the one starts from a run of the other."""
  lm = make_model("lm", dict(
      num_layers=1, num_heads=2, mlp_dim=16, emb_dim=16,
      patches={"size": (4, 8)}, input_size=(16, 24), vocab_size=9, seq_len=4),
      "config.model")

  def encoder_arrays(model):
    shapes = tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    return {name: leaf.shape for name, leaf in shapes.items()
            if name.startswith(PARTS)}

  assert encoder_arrays(make()) == encoder_arrays(lm)
  assert len(encoder_arrays(lm)) > 15


def test_no_position_is_like_another():
  positions_ND = np.asarray(mae_network.waves((4, 3), 16))[0]
  distances = np.abs(positions_ND[:, None] - positions_ND[None]).sum(-1)
  assert distances[~np.eye(12, dtype=bool)].min() > 0.1
  np.testing.assert_allclose(positions_ND[0], [0] * 4 + [1] * 4
                             + [0] * 4 + [1] * 4)


@pytest.mark.parametrize("changes,words", [
    (dict(mask_ratio=0.0), "mask_ratio"),
    (dict(mask_ratio=1), "mask_ratio"),
    (dict(mask_ratio=0.95), "at least one must be seen"),
    (dict(patch_size=(5, 8)), "patch_size"),
    (dict(num_heads=3), "num_heads"),
    (dict(decoder_num_heads=3), "decoder_num_heads"),
    (dict(width=18), "multiple of 4"),
    (dict(decoder_embed_dim=10), "multiple of 4"),
    (dict(encoder_style="clap"), "encoder_style"),
    (dict(mask_rate=0.5), "mask_ratio"),
    (dict(norm_pix_loss="False"), "norm_pix_loss"),
])
def test_a_wrong_size_is_named(changes, words):
  with pytest.raises(ConfigError, match=words):
    make(**changes)


def test_bfloat16_predicts_in_float32():
  model, params = fresh(dtype="bfloat16")
  predicted = compiled(model, "predict")(params, images(), noise())
  assert predicted.dtype == jnp.float32
  exact = compiled(fresh()[0], "predict")(params, images(), noise())
  np.testing.assert_allclose(predicted, exact, atol=0.1)
