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
SHAPES = {
    "a": {"kernel": (64, 40), "bias": (40,)},
    "head": {"kernel": (48, 3, 56)},
}
CONFIG = {
    "optax_name": "scale_by_adafactor",
    "lr": 0.05,
    "wd": 0.01,
    "schedule": {"decay_type": "cosine"},
    "grad_clip_norm": 1.0,
    "total_steps": 20,
}


def make_params():
  def make_array(shape):
    rng = np.random.default_rng(len(shape))
    return jnp.asarray(rng.normal(size=shape) / 8, "float32")

  return jax.tree.map(
      make_array, SHAPES, is_leaf=lambda node: isinstance(node, tuple)
  )


def make_optimizer():
  tx, _ = optim.make_optimizer(params=make_params(), **CONFIG)
  return tx


def make_state():
  return state.TrainState.create(
      params=make_params(),
      tx=make_optimizer(),
      rng=jax.random.PRNGKey(0),
      extra={"state": {"counts": jnp.ones(24)}},
  )


def loss_of(params, x_BD):
  hidden_BD = jnp.tanh(
      x_BD @ params["a"]["kernel"] + params["a"]["bias"][None]
  )
  hidden_BD = jnp.pad(hidden_BD, ((0, 0), (0, 8)))
  logits_BKP = jnp.einsum("bd,dkp->bkp", hidden_BD, params["head"]["kernel"])
  log_sum_BP = jax.nn.logsumexp(logits_BKP, axis=1)
  return jnp.mean(log_sum_BP - logits_BKP[:, 0])


def train(axes, rules, num_steps=4):
  """(losses, parameters on the host) after a few steps."""
  mesh = sharding.make_mesh(axes)
  tx = make_optimizer()
  abstract_state = jax.eval_shape(make_state)
  shardings = sharding.state_shardings(abstract_state, mesh, rules)
  current = jax.jit(make_state, out_shardings=shardings)()

  def step(current, batch):
    loss, grads = jax.value_and_grad(loss_of)(current.params, batch["x"])
    return current.apply_gradients(tx, grads), loss

  jitted_step = jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(shardings, sharding.replicated(mesh)),
  )
  losses = []
  rng = np.random.default_rng(7)
  for _ in range(num_steps):
    x = rng.normal(size=(8, 64)).astype("float32")
    batch = sharding.shard_batch({"x": x}, mesh)
    current, loss = jitted_step(current, batch)
    losses.append(float(loss))
  return losses, sharding.gather_to_host(current.params)


def test_numbers_do_not_depend_on_the_mesh():
  """BEHAVIOURS 38, the factored second moment included."""
  want_losses, want_params = train([("data", 1)], [])
  assert want_losses[-1] < want_losses[0]
  for axes, rules in [
      ([("data", 2), ("model", 1)], []),
      ([("data", 8)], []),
      ([("data", -1)], FSDP),
  ]:
    losses, params = train(axes, rules)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    want_arrays = tree.flatten(want_params)
    for name, array in tree.flatten(params).items():
      # bf16 momentum: a sum in another order may round to the next value.
      np.testing.assert_allclose(array, want_arrays[name], atol=1e-4)


def bytes_per_device(rules):
  """(inputs, outputs) of an update on 8 devices, by the compiled program."""
  mesh = sharding.make_mesh([("data", -1)])
  tx = make_optimizer()

  def update(params, opt_state):
    return tx.update(params, opt_state, params)

  abstract_state = jax.eval_shape(make_state)
  shardings = sharding.state_shardings(abstract_state, mesh, rules)
  inputs = sharding.with_shardings(abstract_state, shardings)
  jitted_update = jax.jit(
      update, out_shardings=(shardings.params, shardings.opt_state)
  )
  compiled = jitted_update.lower(inputs.params, inputs.opt_state).compile()
  memory = compiled.memory_analysis()
  return memory.argument_size_in_bytes, memory.output_size_in_bytes


def test_fsdp_leaves_an_eighth_of_the_state_on_each_device():
  """An eighth, and a tenth of that for the rest."""
  replicated = bytes_per_device([])
  split = bytes_per_device(FSDP)
  for whole_bytes, split_bytes in zip(replicated, split, strict=True):
    eighth = whole_bytes / 8
    assert eighth <= split_bytes <= eighth * 1.1


def test_fsdp_takes_the_largest_dimension_the_axis_divides():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  shapes = {
      "a": (3, 64),
      "b": (64, 100),
      "c": (65, 8),
      "d": (3,),
      "e": (),
      "f": (0,),
  }
  abstract = {}
  for name, shape in shapes.items():
    abstract[name] = jax.ShapeDtypeStruct(shape, "float32")
  specs = specs_by_name(sharding.state_shardings(abstract, mesh, FSDP))
  assert specs == {
      "a": P(None, "data"),
      "b": P(None, "data"),
      "c": P(None, "data"),
      "d": P(),
      "e": P(),
      "f": P(),
  }


def specs_by_name(shardings):
  flat = tree.flatten(shardings)
  return {name: leaf_sharding.spec for name, leaf_sharding in flat.items()}


def test_one_rule_holds_for_a_parameter_and_its_optimizer_state():
  mesh = sharding.make_mesh([("data", -1)])
  rules = [
      ("head/.*", "replicate"),
      ("a/kernel", "fsdp(data)"),
      ("extra/state/counts", "fsdp(data)"),
  ]
  abstract_state = jax.eval_shape(make_state)
  specs = specs_by_name(sharding.state_shardings(abstract_state, mesh, rules))
  split_names = {name for name, spec in specs.items() if spec != P()}
  assert {"params/a/kernel", "extra/state/counts"} <= split_names
  for name in split_names:
    assert name.endswith("a/kernel") or name == "extra/state/counts"
  for moment in ("ema", "v_row", "v_col"):
    assert any(f"/{moment}/a/kernel" in name for name in split_names), moment


def test_a_spec_names_the_axis_of_each_dimension():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  rules = [("a/kernel", "spec(None, model)"), ("head/kernel", "spec(data)")]
  abstract_state = jax.eval_shape(make_state)
  specs = specs_by_name(sharding.state_shardings(abstract_state, mesh, rules))
  assert specs["params/a/kernel"] == P(None, "model")
  assert specs["params/head/kernel"] == P("data")
  moment_specs = []
  for name, spec in specs.items():
    if name.startswith("opt_state") and name.endswith("a/kernel"):
      moment_specs.append(spec)
  # The momentum has the parameter's shape; the factors have not.
  assert len(moment_specs) > 2
  assert moment_specs.count(P(None, "model")) == 1
  assert moment_specs.count(P()) == len(moment_specs) - 1


def test_numbers_do_not_depend_on_specs():
  rules = [("a/kernel", "spec(data,model)"), ("head/.*", "spec(model)")]
  want_losses, _ = train([("data", 1)], [])
  losses, _ = train([("data", 4), ("model", 2)], rules)
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)


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
  abstract = {
      "a": jax.ShapeDtypeStruct((8,), "float32"),
      "b": jax.ShapeDtypeStruct((3,), "float32"),
  }
  with pytest.raises(ConfigError, match=message):
    sharding.state_shardings(abstract, mesh, rules)


def test_minus_one_takes_the_rest_and_fewer_devices_are_allowed():
  mesh = sharding.make_mesh([("data", -1), ("model", 2)])
  assert dict(mesh.shape) == {"data": 4, "model": 2}
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
  for size in (12, 0):
    with pytest.raises(ConfigError, match=f"config.batch_size = {size} .* 8"):
      sharding.check_batch_size(size, mesh)


def test_a_batch_is_split_in_order_and_comes_back_whole():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  image = np.arange(48, dtype="float32").reshape(8, 3, 2)
  batch = {"image": image, "_mask": np.arange(8) < 5}
  # The train loop runs under this guard: only explicit transfers pass.
  with jax.transfer_guard("disallow"):
    arrays = sharding.shard_batch(batch, mesh)
    back = sharding.gather_to_host(arrays)
  shard = arrays["image"].addressable_shards[0]
  assert shard.data.shape == (2, 3, 2)
  for key, value in batch.items():
    assert isinstance(back[key], np.ndarray)
    np.testing.assert_array_equal(back[key], value)


def test_a_sharding_can_give_up_one_axis():
  mesh = sharding.make_mesh([("data", 4), ("model", 2)])
  before = {"a": jax.NamedSharding(mesh, P("data", None, "model"))}
  after = sharding.without_axis(before, "data")
  assert after["a"].spec == P(None, None, "model")
