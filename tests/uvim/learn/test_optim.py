"""The optimizer against the released one, and against numpy in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uvim import tree
from uvim.learn import optim
from uvim.registry import ConfigError

SHAPES = {
    "encoder": {"Dense": {"kernel": (4, 6), "bias": (6,)}},
    "pos_embedding_encoder": (1, 5, 4),
    "head": {"kernel": (33, 2, 40), "bias": (2, 40)},
}
BASE = {
    "optax_name": "scale_by_adafactor",
    "optax": {"beta2_cap": 0.95},
    "lr": 0.01,
    "wd": 0.001,
    "schedule": {"decay_type": "cosine", "warmup_steps": 2},
    "grad_clip_norm": 1.0,
    "total_steps": 10,
}


@pytest.fixture(scope="module")
def configs(fixtures):
  return json.loads((fixtures / "optax.json").read_text())


def _sub(arrays, prefix):
  return {k[len(prefix) + 1:]: v for k, v in arrays.items()
          if k.startswith(prefix + "/")}


def _inputs(fixtures):
  with np.load(fixtures / "optax_inputs.npz") as arrays:
    arrays = dict(arrays)
  return (tree.unflatten(_sub(arrays, "params")),
          [tree.unflatten(_sub(arrays, f"grad{i}")) for i in (1, 2, 3)])


def _random(seed):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
      lambda shape: rng.normal(size=shape).astype(np.float32), SHAPES,
      is_leaf=lambda x: isinstance(x, tuple))


def _run(config, params, grads):
  """[params after each update], the state, the schedules."""
  tx, schedules = optim.make_optimizer(**config, params=params)
  state, update, after = tx.init(params), jax.jit(tx.update), []
  for grad in grads:
    updates, state = update(grad, state, params)
    params = jax.tree.map(np.add, params, updates)
    after.append(tree.flatten(params))
  return after, state, schedules


def _assert_close(got, want, rtol=1e-5):
  assert set(got) == set(want)
  for name, value in want.items():
    scale = max(np.abs(value).max(), 1e-30)
    error = np.abs(np.asarray(got[name], np.float64) - value).max()
    assert error <= rtol * scale, (name, error / scale)


def _moments(state, kind):
  return {name.split(f"/{kind}/", 1)[1]: np.asarray(leaf, np.float32)
          for name, leaf in tree.flatten(state).items() if f"/{kind}/" in name}


@pytest.mark.parametrize("name", ["plain", "lr_mults"])
def test_updates_and_moments_equal_the_released_ones(fixtures, configs, name):
  config = configs["configs"][name] | {"total_steps": configs["total_steps"]}
  after, state, schedules = _run(config, *_inputs(fixtures))
  with np.load(fixtures / f"optax_{name}.npz") as want:
    want = dict(want)
  for i, params in enumerate(after, 1):
    _assert_close(params, _sub(want, f"params_after{i}"))
  for kind in "v_row", "v_col", "v":
    _assert_close(_moments(state, kind), _sub(want, kind))
  # One unit in the last place of bf16 may differ where a compiler rounds.
  _assert_close(_moments(state, "ema"), _sub(want, "ema_bf16_as_f32"), 2**-8)
  got = [schedules[0](step) for step in range(11)]
  np.testing.assert_allclose(got, want["sched0"], atol=1e-6)


def _factor_axes(shape):
  """Adafactor's two axes: the largest two, if both are 32 or more."""
  order = np.argsort(shape)
  big = len(shape) >= 2 and shape[order[-2]] >= 32
  return (int(order[-2]), int(order[-1])) if big else None


def _numpy_step(p, v, m, g, *, t, clip, momentum, step_size, decay):
  """One update of one leaf in float64, with the full second moment v."""
  beta = min(0.95, 1 - t**-0.8)
  v = beta * v + (1 - beta) * (g**2 + 1e-30)
  estimate = v
  if axes := _factor_axes(g.shape):
    row, col = (v.mean(axis=a, keepdims=True) for a in reversed(axes))
    estimate = row * col / row.mean(axis=axes[0], keepdims=True)
  u = g / np.sqrt(estimate)
  u = u / max(1, np.sqrt((u**2).mean())) if clip else u
  m = (1 - momentum) * u + momentum * m
  return p - step_size(t - 1) * (m + decay * p), v, m


@pytest.mark.parametrize("name", ["plain", "noclip_clipthr_nomom", "frozen"])
def test_updates_equal_a_float64_model(fixtures, configs, name):
  config = configs["configs"][name] | {"total_steps": configs["total_steps"]}
  params, grads = _inputs(fixtures)
  after, _, schedules = _run(config, params, grads)
  frozen = "encoder/" if name == "frozen" else "\0"
  momentum = 0.0 if name == "noclip_clipthr_nomom" else 0.9
  p = {k: v.astype(np.float64) for k, v in tree.flatten(params).items()}
  live = [k for k in p if not k.startswith(frozen)]
  v = dict.fromkeys(p, 0.0)
  m = dict.fromkeys(p, 0.0)
  for t, grad in enumerate(grads, 1):
    g = {k: x.astype(np.float64) for k, x in tree.flatten(grad).items()}
    norm = np.sqrt(sum((g[k]**2).sum() for k in live))
    scale = min(1.0, 1.0 / norm) if config["grad_clip_norm"] else 1.0
    for k in live:
      decay = config["wd"] if k.endswith("kernel") else 0.0
      p[k], v[k], m[k] = _numpy_step(
          p[k], v[k], m[k], g[k] * scale, t=t, momentum=momentum,
          clip=bool(config["optax"].get("clipping_threshold")),
          step_size=lambda s: float(schedules[0](s)) * config["lr"],
          decay=decay / config["lr"])
    _assert_close(after[t - 1], p, 2e-4 if momentum else 2e-6)


# Large ones whose means go over the first and over a middle axis; a small one,
# a square one, one that is not factored.
@pytest.mark.parametrize("shape", [
    (64, 20, 1024), (33, 4, 9000), (2, 700, 800), (40, 3, 64), (48, 48), (7,)])
def test_factored_moments_are_those_of_optax(shape):
  def decay(step, *_):
    return 1 - (step + 1.0)**-0.8

  ours = optim._factored_rms(
      min_dim_size_to_factor=32, decay_fn=decay, eps=1e-8)
  theirs = optax.scale_by_factored_rms(
      min_dim_size_to_factor=32, epsilon=1e-8, decay_rate_fn=decay)
  params = {"x": jnp.zeros(shape)}
  states = [opt.init(params) for opt in (ours, theirs)]
  for step in range(2):
    grads = {"x": jax.random.normal(jax.random.key(step), shape)}
    (u, states[0]), (want, states[1]) = (
        jax.jit(opt.update)(grads, state, params)
        for opt, state in zip((ours, theirs), states, strict=True))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5),
                 (u, states[0]), (want, states[1]))


def test_frozen_leaves_keep_no_state_and_never_change(configs):
  config = BASE | {"schedule": [
      ("encoder/.*", None), (".*", {"decay_type": "linear"})]}
  params = _random(0)
  after, state, schedules = _run(config, params, [_random(1), _random(2)])
  assert len(schedules) == 1
  assert not any("encoder/Dense" in n for n in tree.leaf_names(state))
  for name, value in tree.flatten(params).items():
    same = np.array_equal(after[-1][name], value)
    assert same == name.startswith("encoder/"), name


def test_no_schedule_at_all_freezes_everything():
  after, _, schedules = _run(
      BASE | {"schedule": None}, _random(0), [_random(1)])
  _assert_close(after[0], tree.flatten(_random(0)), 0)
  assert not schedules


def test_weight_decay_is_on_kernels_and_ignores_lr_and_lr_mults():
  """BEHAVIOURS 30. With zero gradients only the decay is left."""
  zeros = jax.tree.map(np.zeros_like, _random(0))
  config = BASE | {"lr": 123.0, "lr_mults": [("head.*", 0.1)],
                   "schedule": {"decay_type": "linear"}}
  before, (first, second) = _random(0), _run(
      config, _random(0), [zeros, zeros])[0]
  for name, value in tree.flatten(before).items():
    kernel = name.endswith("/kernel")
    np.testing.assert_allclose(
        first[name], value * (1 - 0.001 * kernel), rtol=1e-6)
    np.testing.assert_allclose(
        second[name], first[name] * (1 - 0.9 * 0.001 * kernel), rtol=1e-6)


def test_lr_mults_scale_whole_names_and_the_first_match_wins():
  """BEHAVIOURS 29."""
  config = BASE | {"wd": 0.0, "schedule": {"decay_type": "cosine"}}
  mults = [("encoder/Dense/bias", 0.5), ("encoder.*", 0.1)]
  plain = _run(config, _random(0), [_random(1)])[0][0]
  scaled = _run(config | {"lr_mults": mults}, _random(0), [_random(1)])[0][0]
  want = {"encoder/Dense/bias": 0.5, "encoder/Dense/kernel": 0.1}
  for name, value in tree.flatten(_random(0)).items():
    np.testing.assert_allclose(
        scaled[name] - value, (plain[name] - value) * want.get(name, 1.0),
        rtol=1e-4, atol=1e-7)


def test_adam_is_adamw_with_this_weight_decay():
  config = BASE | {"optax_name": "scale_by_adam", "optax": {"b2": 0.99},
                   "grad_clip_norm": None, "schedule": {"decay_type": "stair"}}
  grads = [_random(1), _random(2)]
  got = _run(config, _random(0), grads)[0][-1]["encoder/Dense/kernel"]
  p = _random(0)["encoder"]["Dense"]["kernel"].astype(np.float64)
  m = v = 0.0
  for t, grad in enumerate(grads, 1):
    g = grad["encoder"]["Dense"]["kernel"].astype(np.float64)
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
    u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    p = p - 0.01 * u - 0.001 * p
  np.testing.assert_allclose(got, p, rtol=1e-5)


SCHEDULES = {
    "cosine_w4": {"decay_type": "cosine", "warmup_steps": 4},
    "linear": {"decay_type": "linear", "warmup_steps": 4, "linear_end": 0.1},
    "rsqrt": {"decay_type": "rsqrt", "warmup_steps": 4, "timescale": 10,
              "cooldown_steps": 5},
    "stair": {"decay_type": "stair", "steps": [5, 9], "mults": [0.5, 0.1]},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_the_released_ones(fixtures, name):
  schedule = optim.make_schedule(total_steps=20, **SCHEDULES[name])
  with np.load(fixtures / "schedules.npz") as want:
    np.testing.assert_allclose(
        [schedule(step) for step in range(21)], want[name], atol=1e-6)


@pytest.mark.parametrize("change, message", [
    ({"optax_name": "scale_by_adafctor"}, "optax_name.*scale_by_adafactor"),
    ({"optax": {"beta2_cup": 1}}, "config.optax 'beta2_cup'.*'beta2_cap'"),
    ({"schedule": {"decay_type": "cosin"}}, "decay_type 'cosin'.*'cosine'"),
    ({"schedule": {"decay_type": "cosine", "end": 0}}, "config.schedule 'end'"),
    ({"schedule": {"warmup_steps": 10}}, "warmup_steps = 10.* 10 steps"),
    ({"schedule": {"warmup_steps": -1}}, "warmup_steps = -1"),
    ({"schedule": {"steps": [3, 2], "mults": [1, 1]}}, "steps must rise"),
    ({"schedule": [("head.*", None)]}, "no pattern for 'encoder/Dense/bias'"),
    ({"lr_mults": [("haed.*", 0.1)]}, "lr_mults: pattern 'haed.*' matches no"),
    ({"lr_mults": [("head.*", 0)]}, "lr_mults.*must be > 0"),
])
def test_mistakes_name_the_field(change, message):
  with pytest.raises(ConfigError, match=message):
    optim.make_optimizer(**BASE | change, params=SHAPES_TREE)


SHAPES_TREE = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s, np.float32), SHAPES,
    is_leaf=lambda x: isinstance(x, tuple))
