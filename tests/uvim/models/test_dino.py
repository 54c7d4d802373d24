"""DINO: its loss, its schedules and its network."""

import functools

import jax
import numpy as np
import pytest

from uvim import tree
from uvim.encoders.base import PARTS
from uvim.models import dino, dino_network, make_model
from uvim.registry import ConfigError

SIZES = dict(
    input_size=(16, 24), patch_size=(4, 8), width=16, depth=1, mlp_dim=16,
    num_heads=2, local_crops_size=(8, 8), local_crops_number=2, out_dim=6,
    hidden_dim=8, bottleneck_dim=4, momentum_teacher_steps=10,
    freeze_last_layer_steps=3)


def make(**changes):
  return make_model("dino", SIZES | changes, "config.model")


@functools.cache
def fresh(**changes):
  model = make(**changes)
  return model, jax.jit(model.init)(jax.random.key(0))


def images(batch=2):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (batch, 32, 32, 3)).astype(np.float32)


def keys(batch=2):
  return jax.random.split(jax.random.key(0), batch)


def scores(seed, crops):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(crops, 2, 6)).astype(np.float32)


dino_loss = jax.jit(functools.partial(
    dino.dino_loss, teacher_temp=0.5, student_temp=0.2))


def test_the_loss_is_a_mean_over_pairs_of_other_crops():
  student, teacher = scores(0, 4), scores(1, 2)
  center = np.linspace(-1, 1, 6, dtype=np.float32)

  def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))

  wanted = []
  for t, s in [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]:
    target = np.exp(log_softmax((teacher[t] - center) / 0.5))
    wanted.append(-(target * log_softmax(student[s] / 0.2)).sum(-1))
  loss_B = dino_loss(student, teacher, center)
  np.testing.assert_allclose(loss_B, np.mean(wanted, 0), rtol=1e-5)


def test_the_teacher_gets_no_gradient():
  def loss(teacher):
    center = np.zeros(6, np.float32)
    return dino_loss(scores(0, 4), teacher, center).sum()

  assert not jax.jit(jax.grad(loss))(scores(1, 2)).any()


def test_schedules_start_and_end_where_they_should():
  momentum = functools.partial(dino.momentum_at, first=0.9, num_steps=10)
  np.testing.assert_allclose(
      [momentum(0), momentum(5), momentum(10), momentum(99)],
      [0.9, 0.95, 1.0, 1.0], rtol=1e-6)
  for warmup_steps in (1, 2, 5):
    found = [dino.temperature_at(
        step, first=0.04, last=0.07, warmup_steps=warmup_steps)
        for step in range(8)]
    wanted = np.full(8, 0.07)
    wanted[:warmup_steps] = np.linspace(0.04, 0.07, warmup_steps)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
  none = dino.temperature_at(0, first=0.04, last=0.07, warmup_steps=0)
  np.testing.assert_allclose(none, 0.07, rtol=1e-6)


def loss_of(model, params, step):
  teacher = jax.tree.map(lambda x: x * 1.1, params)
  center_K = np.zeros(6, np.float32)

  def mean_loss(params):
    loss_B, _ = model.loss(
        params, teacher, center_K, images(), keys(), step)
    return loss_B.mean()

  return mean_loss


def test_the_last_layer_waits_while_the_rest_learns():
  model, params = fresh()

  @jax.jit
  def grads_at(step):
    return jax.grad(loss_of(model, params, step))(params)

  early = tree.flatten(grads_at(2))
  late = tree.flatten(grads_at(3))
  assert not early["dino_head/last_layer"].any()
  for name, grad in late.items():
    # A key's bias shifts all scores of a query alike.
    if not name.endswith("key/bias"):
      assert np.abs(grad).max() > 0, name


def test_a_local_crop_has_the_positions_of_a_smaller_grid():
  model, params = fresh()
  network = model.network
  local = images()[:, :8, :8]
  run = functools.partial(
      network.apply, {"params": params}, method="with_prefix")
  assert jax.eval_shape(run, local).shape == (2, 1 + 2, 16)
  # Positions that are alike everywhere stay so on any grid.
  flat = dict(params)
  flat["pos_embedding_encoder"] = params["pos_embedding_encoder"] * 0 + 0.5
  image = np.tile(local, (1, 2, 3, 1))
  features = jax.jit(functools.partial(network.apply, method="features"))
  shifted = np.asarray(features({"params": flat}, image))
  np.testing.assert_allclose(shifted[:, 0], shifted[:, 6], atol=1e-5)


def test_the_head_sees_directions_alone():
  head = dino_network.Head(8, 4, 6)
  x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
  params = jax.jit(head.init)(jax.random.key(0), x)["params"]
  apply = jax.jit(head.apply)
  cosines = apply({"params": params}, x)
  assert np.abs(cosines).max() <= 1 + 1e-6
  longer = dict(params, last_layer=params["last_layer"] * 7)
  np.testing.assert_allclose(
      apply({"params": longer}, x), cosines, atol=1e-6)


def test_an_encoder_of_stage_ii_has_the_same_arrays():
  lm = make_model("lm", dict(
      num_layers=1, num_heads=2, mlp_dim=16, emb_dim=16, encoder_style="dino",
      patches={"size": (4, 8)}, input_size=(16, 24), vocab_size=9, seq_len=4),
      "config.model")

  def encoder_arrays(model):
    shapes = tree.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    return {name: leaf.shape for name, leaf in shapes.items()
            if name.startswith(PARTS)}

  assert encoder_arrays(make()) == encoder_arrays(lm)
  assert len(encoder_arrays(lm)) > 15


@pytest.mark.parametrize("changes,words", [
    (dict(local_crops_size=(9, 8)), "local_crops_size"),
    (dict(input_size=(16, 20)), "input_size"),
    (dict(num_heads=3), "num_heads"),
    (dict(encoder_style="augreg"), "no class token"),
    (dict(global_crops_scale=(0.5, 0.4)), "rising numbers"),
    (dict(local_crops_scale=(0.0, 0.4)), "local_crops_scale"),
    (dict(teacher_temp=0), "teacher_temp"),
    (dict(crops_number=8), "local_crops_number"),
])
def test_a_wrong_size_is_named(changes, words):
  with pytest.raises(ConfigError, match=words):
    make(**changes)


def test_without_local_crops_their_size_does_not_matter():
  model = make(local_crops_number=0, local_crops_size=(9, 9))
  views = jax.eval_shape(model.crop, images(), keys())
  assert [view.shape for view in views] == [(2, 2, 16, 24, 3)]
