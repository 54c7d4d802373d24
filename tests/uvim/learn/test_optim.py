"""The optimizer against the released one, and against numpy in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uvim import tree
from uvim.learn import optim, schedules
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


def map_shapes(function):
  """SHAPES with `function` of each shape in its place."""
  return jax.tree.map(
      function, SHAPES, is_leaf=lambda node: isinstance(node, tuple)
  )


def random_arrays(seed):
  rng = np.random.default_rng(seed)
  return map_shapes(lambda shape: rng.normal(size=shape).astype(np.float32))


@pytest.fixture(scope="module")
def configs(fixtures):
  return json.loads((fixtures / "optax.json").read_text())


def arrays_below(arrays, prefix):
  """Those whose names start with 'prefix/', without it."""
  below = {}
  for name, array in arrays.items():
    if name.startswith(f"{prefix}/"):
      below[name.removeprefix(f"{prefix}/")] = array
  return below


def fixture_inputs(fixtures):
  """The parameters, and the gradients of three steps."""
  with np.load(fixtures / "optax_inputs.npz") as file:
    arrays = dict(file)
  params = tree.unflatten(arrays_below(arrays, "params"))
  grads = []
  for step in (1, 2, 3):
    grads.append(tree.unflatten(arrays_below(arrays, f"grad{step}")))
  return params, grads


def train(config, params, grads):
  """[parameters after each update], the state, the schedules."""
  tx, schedules = optim.make_optimizer(**config, params=params)
  state = tx.init(params)
  update = jax.jit(tx.update)
  after = []
  for grad in grads:
    updates, state = update(grad, state, params)
    params = jax.tree.map(np.add, params, updates)
    after.append(tree.flatten(params))
  return after, state, schedules


def assert_close(got, want, rtol=1e-5):
  """Errors are relative to the largest number of an array."""
  assert set(got) == set(want)
  for name, value in want.items():
    scale = max(np.abs(value).max(), 1e-30)
    error = np.abs(np.asarray(got[name], np.float64) - value).max()
    assert error <= rtol * scale, (name, error / scale)


def moments(state, kind):
  """What the optimizer keeps for each parameter in its field `kind`."""
  found = {}
  for name, leaf in tree.flatten(state).items():
    _, separator, param_name = name.partition(f"/{kind}/")
    if separator:
      found[param_name] = np.asarray(leaf, np.float32)
  return found


@pytest.mark.parametrize("name", ["plain", "lr_mults"])
def test_updates_and_moments_equal_the_released_ones(fixtures, configs, name):
  config = configs["configs"][name] | {"total_steps": configs["total_steps"]}
  after, state, schedules = train(config, *fixture_inputs(fixtures))
  with np.load(fixtures / f"optax_{name}.npz") as file:
    want = dict(file)
  for step, params in enumerate(after, 1):
    assert_close(params, arrays_below(want, f"params_after{step}"))
  for kind in ("v_row", "v_col", "v"):
    assert_close(moments(state, kind), arrays_below(want, kind))
  # One unit in the last place of bf16 may differ where a compiler rounds.
  want_ema = arrays_below(want, "ema_bf16_as_f32")
  assert_close(moments(state, "ema"), want_ema, rtol=2**-8)
  got_schedule = [schedules[0](step) for step in range(11)]
  np.testing.assert_allclose(got_schedule, want["sched0"], atol=1e-6)


def factored_axes(shape):
  """The largest two axes in ascending order, if both are 32 or more."""
  if len(shape) < 2:
    return None
  order = np.argsort(shape)
  smaller = int(order[-2])
  larger = int(order[-1])
  if shape[smaller] < 32:
    return None
  return smaller, larger


def whole_second_moment(v):
  """`v` [shape], or its factored estimate where Adafactor keeps factors."""
  axes = factored_axes(v.shape)
  if axes is None:
    return v
  smaller, larger = axes
  row = v.mean(axis=larger, keepdims=True)
  column = v.mean(axis=smaller, keepdims=True)
  return row * column / row.mean(axis=smaller, keepdims=True)


def numpy_step(p, v, m, g, *, t, clip, momentum, step_size, decay):
  """One update of one leaf in float64, with the full second moment v."""
  beta = min(0.95, 1 - t**-0.8)
  v = beta * v + (1 - beta) * (g**2 + 1e-30)
  u = g / np.sqrt(whole_second_moment(v))
  if clip:
    u = u / max(1, np.sqrt((u**2).mean()))
  m = (1 - momentum) * u + momentum * m
  return p - step_size * (m + decay * p), v, m


@pytest.mark.parametrize("name, momentum, clip", [
    ("plain", 0.9, False),
    ("noclip_clipthr_nomom", 0.0, True),
    ("frozen", 0.9, False),
])
def test_updates_equal_a_float64_model(
    fixtures, configs, name, momentum, clip
):
  config = configs["configs"][name] | {"total_steps": configs["total_steps"]}
  params, grads = fixture_inputs(fixtures)
  after, _, schedules = train(config, params, grads)
  p = {}
  for key, value in tree.flatten(params).items():
    p[key] = value.astype(np.float64)
  live = list(p)
  if name == "frozen":
    live = [key for key in p if not key.startswith("encoder/")]
  v = dict.fromkeys(p, 0.0)
  m = dict.fromkeys(p, 0.0)
  for t, grad in enumerate(grads, 1):
    g = {}
    for key, value in tree.flatten(grad).items():
      g[key] = value.astype(np.float64)
    scale = 1.0
    if config["grad_clip_norm"]:
      norm = np.sqrt(sum((g[key]**2).sum() for key in live))
      scale = min(1.0, 1.0 / norm)
    for key in live:
      decay = config["wd"] if key.endswith("kernel") else 0.0
      p[key], v[key], m[key] = numpy_step(
          p[key], v[key], m[key], g[key] * scale,
          t=t,
          clip=clip,
          momentum=momentum,
          step_size=float(schedules[0](t - 1)) * config["lr"],
          decay=decay / config["lr"],
      )
    assert_close(after[t - 1], p, 2e-4 if momentum else 2e-6)


@pytest.mark.parametrize("shape", [
    (64, 20, 1024),  # Large; means over the first axis.
    (33, 4, 9000),
    (2, 700, 800),  # Large; means over a middle axis.
    (40, 3, 64),  # Small.
    (48, 48),  # Square.
    (7,),  # Not factored.
])
def test_factored_moments_are_those_of_optax(shape):
  def decay(step, *_):
    return 1 - (step + 1.0)**-0.8

  ours = optim.scale_by_factored_rms(
      min_dim_size_to_factor=32, decay_fn=decay, eps=1e-8
  )
  theirs = optax.scale_by_factored_rms(
      min_dim_size_to_factor=32, epsilon=1e-8, decay_rate_fn=decay
  )
  params = {"x": jnp.zeros(shape)}
  our_state = ours.init(params)
  their_state = theirs.init(params)
  our_update = jax.jit(ours.update)
  their_update = jax.jit(theirs.update)

  def assert_leaf_close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5)

  for step in range(2):
    grads = {"x": jax.random.normal(jax.random.key(step), shape)}
    got, our_state = our_update(grads, our_state, params)
    want, their_state = their_update(grads, their_state, params)
    jax.tree.map(assert_leaf_close, got, want)
    jax.tree.map(assert_leaf_close, our_state, their_state)


def test_frozen_leaves_keep_no_state_and_never_change():
  schedule = [("encoder.*", None), (".*", {"decay_type": "linear"})]
  params = random_arrays(0)
  grads = [random_arrays(1), random_arrays(2)]
  after, state, schedules = train(
      BASE | {"schedule": schedule}, params, grads
  )
  assert len(schedules) == 1
  for name in tree.leaf_names(state):
    assert "encoder/Dense" not in name
  for name, value in tree.flatten(params).items():
    is_unchanged = np.array_equal(after[-1][name], value)
    assert is_unchanged == name.startswith("encoder/"), name


def test_no_schedule_at_all_freezes_everything():
  params = random_arrays(0)
  after, _, schedules = train(
      BASE | {"schedule": None}, params, [random_arrays(1)]
  )
  assert_close(after[0], tree.flatten(params), 0)
  assert not schedules


def test_weight_decay_is_on_kernels_and_ignores_lr_and_lr_mults():
  """BEHAVIOURS 30. With zero gradients only the decay is left."""
  params = random_arrays(0)
  zeros = jax.tree.map(np.zeros_like, params)
  config = BASE | {
      "lr": 123.0,
      "lr_mults": [("head.*", 0.1)],
      "schedule": {"decay_type": "linear"},
  }
  (first, second), _, _ = train(config, params, [zeros, zeros])
  for name, value in tree.flatten(params).items():
    decay = 0.0
    if name.endswith("/kernel"):
      decay = config["wd"]
    np.testing.assert_allclose(first[name], value * (1 - decay), rtol=1e-6)
    # The linear schedule has fallen to 0.9.
    np.testing.assert_allclose(
        second[name], first[name] * (1 - 0.9 * decay), rtol=1e-6
    )


def test_lr_mults_scale_whole_names_and_the_first_match_wins():
  """BEHAVIOURS 29."""
  config = BASE | {"wd": 0.0, "schedule": {"decay_type": "cosine"}}
  lr_mults = [("encoder/Dense/bias", 0.5), ("encoder.*", 0.1)]
  params = random_arrays(0)
  grads = [random_arrays(1)]
  (plain,), _, _ = train(config, params, grads)
  (scaled,), _, _ = train(config | {"lr_mults": lr_mults}, params, grads)
  multipliers = {"encoder/Dense/bias": 0.5, "encoder/Dense/kernel": 0.1}
  for name, value in tree.flatten(params).items():
    multiplier = multipliers.get(name, 1.0)
    plain_step = plain[name] - value
    scaled_step = scaled[name] - value
    np.testing.assert_allclose(
        scaled_step, plain_step * multiplier, rtol=1e-4, atol=1e-7
    )


def test_adam_is_adamw_with_this_weight_decay():
  config = BASE | {
      "optax_name": "scale_by_adam",
      "optax": {"b2": 0.99},
      "grad_clip_norm": None,
      "schedule": {"decay_type": "stair"},
  }
  params = random_arrays(0)
  grads = [random_arrays(1), random_arrays(2)]
  after, _, _ = train(config, params, grads)
  p = params["encoder"]["Dense"]["kernel"].astype(np.float64)
  m = 0.0
  v = 0.0
  for t, grad in enumerate(grads, 1):
    g = grad["encoder"]["Dense"]["kernel"].astype(np.float64)
    m = 0.9 * m + 0.1 * g
    v = 0.99 * v + 0.01 * g**2
    corrected_m = m / (1 - 0.9**t)
    corrected_v = v / (1 - 0.99**t)
    u = corrected_m / (np.sqrt(corrected_v) + 1e-8)
    p = p - 0.01 * u - 0.001 * p
  np.testing.assert_allclose(after[-1]["encoder/Dense/kernel"], p, rtol=1e-5)


SCHEDULES = {
    "cosine_w4": {"decay_type": "cosine", "warmup_steps": 4},
    "linear": {"decay_type": "linear", "warmup_steps": 4, "linear_end": 0.1},
    "rsqrt": {
        "decay_type": "rsqrt",
        "warmup_steps": 4,
        "timescale": 10,
        "cooldown_steps": 5,
    },
    "stair": {"decay_type": "stair", "steps": [5, 9], "mults": [0.5, 0.1]},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_the_released_ones(fixtures, name):
  schedule = schedules.make_schedule(total_steps=20, **SCHEDULES[name])
  with np.load(fixtures / "schedules.npz") as want:
    got = [schedule(step) for step in range(21)]
    np.testing.assert_allclose(got, want[name], atol=1e-6)


@pytest.mark.parametrize("change, message", [
    ({"optax_name": "scale_by_adafctor"}, "optax_name.*scale_by_adafactor"),
    ({"optax": {"beta2_cup": 1}},
     "'config.optax.beta2_cup' = 1.*'config.optax.beta2_cap'"),
    ({"schedule": {"decay_type": "cosin"}}, "decay_type 'cosin'.*'cosine'"),
    ({"schedule": {"decay_type": "cosine", "end": 0}},
     "'config.schedule.end' = 0"),
    ({"schedule": {"warmup_steps": 10}}, "warmup_steps = 10.* 10 steps"),
    ({"schedule": {"warmup_steps": -1}}, "warmup_steps = -1"),
    ({"schedule": {"steps": [3, 2], "mults": [1, 1]}}, "steps must rise"),
    ({"schedule": [("head.*", None)]}, "no pattern for 'encoder/Dense/bias'"),
    ({"lr_mults": [("haed.*", 0.1)]}, "lr_mults: pattern 'haed.*' matches no"),
    ({"lr_mults": [("head.*", 0)]}, "lr_mults.*must be > 0"),
])
def test_mistakes_name_the_field(change, message):
  shapes = map_shapes(lambda shape: jax.ShapeDtypeStruct(shape, np.float32))
  with pytest.raises(ConfigError, match=message):
    optim.make_optimizer(**BASE | change, params=shapes)
