"""Meshes, shardings by rule, and equal numbers wherever they are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from uvim import tree
from uvim.learn import optim, sharding, state
from uvim.registry import ConfigError

FSDP = [(".*", "fsdp(data)")]
SHAPES = {"a": {"kernel": (64, 40), "bias": (40,)},
          "head": {"kernel": (48, 3, 56)}}
CONFIG = {
    "optax_name": "scale_by_adafactor",
    "lr": 0.05,
    "wd": 0.01,
    "schedule": {"decay_type": "cosine"},
    "grad_clip_norm": 1.0,
    "total_steps": 20,
}


def _init():
  params = jax.tree.map(
      lambda shape: jnp.asarray(
          np.random.default_rng(len(shape)).normal(size=shape) / 8, "float32"),
      SHAPES, is_leaf=lambda x: isinstance(x, tuple))
  tx, _ = optim.make_optimizer(params=params, **CONFIG)
  rng = jax.random.PRNGKey(0)
  return state.TrainState.create(
      params=params, tx=tx, rng=rng, codebook={"counts": jnp.ones(24)}), tx


def _loss(params, x):
  x = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
  logits = jnp.einsum("bd,dkp->bkp", jnp.pad(x, ((0, 0), (0, 8))),
                      params["head"]["kernel"])
  return jnp.mean(jax.nn.logsumexp(logits, axis=1) - logits[:, 0])


def _train(axes, rules, steps=4):
  """(losses, parameters on the host, final state) after a few steps."""
  mesh = sharding.make_mesh(axes)
  abstract, tx = jax.eval_shape(lambda: _init()[0]), _init()[1]
  shardings = sharding.state_shardings(abstract, mesh, rules)
  current = jax.jit(lambda: _init()[0], out_shardings=shardings)()

  def step(current, batch):
    loss, grads = jax.value_and_grad(_loss)(current.params, batch["x"])
    return current.apply_gradients(tx, grads), loss

  step = jax.jit(step, donate_argnums=0,
                 out_shardings=(shardings, sharding.replicated(mesh)))
  losses, rng = [], np.random.default_rng(7)
  for _ in range(steps):
    batch = {"x": rng.normal(size=(8, 64)).astype("float32")}
    current, loss = step(current, sharding.shard_batch(batch, mesh))
    losses.append(float(loss))
  return losses, sharding.gather_to_host(current.params), current


def test_numbers_do_not_depend_on_the_mesh():
  """BEHAVIOURS 38, the factored second moment included."""
  want_loss, want, _ = _train([("data", 1)], [])
  assert want_loss[-1] < want_loss[0]
  for axes, rules in [([("data", 2), ("model", 1)], []),
                      ([("data", 8)], []),
                      ([("data", -1)], FSDP)]:
    losses, params, _ = _train(axes, rules)
    np.testing.assert_allclose(losses, want_loss, rtol=1e-5)
    for got, value in zip(
        jax.tree.leaves(params), jax.tree.leaves(want), strict=True):
      # bf16 momentum: a sum in another order may round to the next value.
      np.testing.assert_allclose(got, value, atol=1e-4)


def test_fsdp_leaves_an_eighth_of_the_state_on_each_device():
  """By the compiled program: an eighth, and a tenth of that for the rest."""
  mesh = sharding.make_mesh([("data", -1)])
  abstract, tx = jax.eval_shape(lambda: _init()[0]), _init()[1]

  def update(params, opt_state):
    updates, opt_state = tx.update(params, opt_state, params)
    return updates, opt_state

  def bytes_per_device(rules):
    shardings = sharding.state_shardings(abstract, mesh, rules)
    args = sharding.with_shardings(abstract, shardings)
    compiled = jax.jit(update, out_shardings=(
        shardings.params, shardings.opt_state)).lower(
            args.params, args.opt_state).compile()
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes, memory.output_size_in_bytes

  for whole, split in zip(bytes_per_device([]), bytes_per_device(FSDP),
                          strict=True):
    assert whole / 8 <= split <= whole / 8 * 1.1


def test_fsdp_takes_the_largest_dimension_the_axis_divides():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  shapes = {"a": (3, 64), "b": (64, 100), "c": (65, 8), "d": (3,), "e": (),
            "f": (0,)}
  abstract = {k: jax.ShapeDtypeStruct(v, "float32") for k, v in shapes.items()}
  got = sharding.state_shardings(abstract, mesh, FSDP)
  assert {k: s.spec for k, s in got.items()} == {
      "a": P(None, "data"), "b": P(None, "data"), "c": P(None, "data"),
      "d": P(), "e": P(), "f": P()}


def test_one_rule_holds_for_a_parameter_and_its_optimizer_state():
  mesh = sharding.make_mesh([("data", -1)])
  abstract = jax.eval_shape(lambda: _init()[0])
  rules = [("head/.*", "replicate"), ("a/kernel", "fsdp(data)"),
           ("codebook/counts", "fsdp(data)")]
  specs = {name: s.spec for name, s in tree.flatten(
      sharding.state_shardings(abstract, mesh, rules)).items()}
  split = {name for name, spec in specs.items() if spec != P()}
  assert all(n.endswith("a/kernel") or n == "codebook/counts" for n in split)
  assert {"params/a/kernel", "codebook/counts"} <= split
  for moment in "ema", "v_row", "v_col":
    assert any(f"/{moment}/a/kernel" in name for name in split), moment


def test_a_spec_names_the_axis_of_each_dimension():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  abstract = jax.eval_shape(lambda: _init()[0])
  rules = [("a/kernel", "spec(None, model)"), ("head/kernel", "spec(data)")]
  specs = {name: s.spec for name, s in tree.flatten(
      sharding.state_shardings(abstract, mesh, rules)).items()}
  assert specs["params/a/kernel"] == P(None, "model")
  assert specs["params/head/kernel"] == P("data")
  moments = {name: spec for name, spec in specs.items()
             if name.startswith("opt_state") and name.endswith("a/kernel")}
  # The momentum has the parameter's shape; the factors have not.
  assert sorted(map(str, moments.values())) == sorted(map(str, [
      P(None, "model"), *[P()] * (len(moments) - 1)])) and len(moments) > 2


def test_numbers_do_not_depend_on_specs():
  rules = [("a/kernel", "spec(data,model)"), ("head/.*", "spec(model)")]
  want, got = _train([("data", 1)], []), _train(
      [("data", 4), ("model", 2)], rules)
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5)


@pytest.mark.parametrize("rules, message", [
    ([(".*", "spec(data,data)")], "names the axis 'data' twice"),
    ([(".*", "spec(date)")], "axis in config.sharding 'date'.*'data'"),
    ([("a", "spec(None,data)")], r"'spec\(None,data\)' does not fit 'a'.*8"),
    ([("b", "spec(data)")], r"'spec\(data\)' does not fit 'b' of shape .3,"),
    ([(".*", "spec[data]")], "unknown rule 'spec.data"),
    ([(".*", "fdsp(data)")], "unknown rule 'fdsp"),
    ([(".*", "fsdp(date)")], "axis in config.sharding 'date'.*'data'"),
    ([("encoder.*", "fsdp(data)")], "'encoder.*' matches no parameter"),
])
def test_bad_rules_are_named(rules, message):
  mesh = sharding.make_mesh([("data", -1)])
  abstract = {"a": jax.ShapeDtypeStruct((8,), "float32"),
              "b": jax.ShapeDtypeStruct((3,), "float32")}
  with pytest.raises(ConfigError, match=message):
    sharding.state_shardings(abstract, mesh, rules)


def test_minus_one_takes_the_rest_and_fewer_devices_are_allowed():
  assert dict(sharding.make_mesh([("data", -1), ("model", 2)]).shape) == {
      "data": 4, "model": 2}
  assert sharding.make_mesh([("data", 2)]).size == 2


@pytest.mark.parametrize("axes", [
    [("data", 3), ("model", -1)],
    [("data", 16)],
    [("data", -1), ("model", -1)],
    [("data", 0)],
    [("model", -1)],
    [("data", 2), ("data", 2)],
])
def test_impossible_meshes_are_refused(axes):
  with pytest.raises(ConfigError, match="config.mesh"):
    sharding.make_mesh(axes)


def test_batch_size_must_divide():
  mesh = sharding.make_mesh([("data", -1)])
  sharding.check_batch_size(16, mesh)
  for size in 12, 0:
    with pytest.raises(ConfigError, match=f"config.batch_size = {size} .* 8"):
      sharding.check_batch_size(size, mesh)


def test_a_batch_is_split_in_order_and_comes_back_whole():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  batch = {"image": np.arange(48, dtype="float32").reshape(8, 3, 2),
           "_mask": np.arange(8) < 5}
  # The train loop runs under this guard: only explicit transfers pass.
  with jax.transfer_guard("disallow"):
    arrays = sharding.shard_batch(batch, mesh)
    back = sharding.gather_to_host(arrays)
  assert arrays["image"].addressable_shards[0].data.shape == (2, 3, 2)
  for key, value in batch.items():
    assert isinstance(back[key], np.ndarray)
    np.testing.assert_array_equal(back[key], value)
