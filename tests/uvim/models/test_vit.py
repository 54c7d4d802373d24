"""Stage I against the original's numbers, and what it must not do."""

import dataclasses
import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from uvim.codes import vq
from uvim.models import make_model
from uvim.nn import losses
from uvim.nn.grid import resize_grid
from uvim.registry import ConfigError

TINY = dict(
    input_size=(16, 8), patch_size=(4, 4), code_len=4, width=16,
    oracle_depth=1, base_model_depth=1, mlp_dim=16, num_heads=2, dict_size=8,
    codeword_dim=6, inputs={"seg": (3, 16)}, outputs={"seg": (3, 16)})
BASE = dict(
    input_size=(512, 512), patch_size=(16, 16), code_len=256, width=768,
    oracle_depth=6, base_model_depth=12, mlp_dim=3072, num_heads=12,
    dict_size=4096, codeword_dim=768)
LABELS = dict(
    panoptic={"semantics": (134, 256), "instances": (100, 256)},
    depth={"depth": (256, 256)}, color={"color": (3, 256)})
ORACLE = re.compile(
    "encoder/.*|encoder_head/.*|embedding_.*|ctx_enc_.*|pos_embedding_encoder")


def make(base=TINY, **fields):
  return make_model("vit", {**base, **fields}, "model")


def with_network(model, **changes):
  """The model with other fields of its network."""
  return dataclasses.replace(model, vit=model.vit.copy(**changes))


@functools.partial(jax.jit, static_argnums=0)
def bottleneck(model, params, x, ctx):
  """The oracle's vectors, as the quantizer compares them with its words."""
  x_BLE = model.vit.apply({"params": params}, x, ctx, method="encode")
  return jax.nn.standardize(x_BLE, axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def oracle(model, arrays, x, ctx):
  return model.oracle(arrays, x, ctx)


@functools.partial(jax.jit, static_argnums=0)
def base_model(model, arrays, z_BLE, ctx):
  return model.base_model(arrays, z_BLE, ctx)


def shapes(model):
  params = jax.eval_shape(model.init, jax.random.key(0))["params"]
  assert {p.dtype.name for p in jax.tree.leaves(params)} == {"float32"}
  return {name: p.shape
          for name, p in traverse_util.flatten_dict(params, sep="/").items()}


def random_params(model):
  """Parameters drawn by numpy: compiling `init` takes seconds."""
  rng = np.random.default_rng(0)
  return traverse_util.unflatten_dict(
      {name: np.float32(rng.normal(size=shape) * 0.2)
       for name, shape in shapes(model).items()}, sep="/")


def count(shapes, pattern=".*"):
  return sum(math.prod(s) for name, s in shapes.items()
             if re.fullmatch(pattern, name))


@pytest.fixture(scope="module")
def tiny():
  """A model, random arrays and a batch."""
  model = make()
  codebook = vq.init_codebook(jax.random.key(1), 8, 6)
  arrays = {"params": random_params(model), "state": vq.as_state(codebook)}
  rng = np.random.default_rng(0)
  x = {"seg": jnp.asarray(rng.integers(0, 3, (2, 8, 16)), jnp.int32)}
  ctx = jnp.asarray(rng.uniform(-1, 1, (2, 16, 8, 3)), jnp.float32)
  return model, arrays, x, ctx


# Parity with the released implementation.


def load_case(fixtures, name):
  """Model, its arrays and the batch of one parity fixture."""
  meta = json.loads((fixtures / f"stage1_{name}.json").read_text())
  fields = meta["model"]
  fields["oracle_depth"] = fields.pop("enc_depth")
  fields["base_model_depth"] = fields.pop("dec_depth")
  fields.pop("statistics_axis_name")
  for key in ("input_size", "patch_size"):
    fields[key] = tuple(fields[key])
  for key in ("inputs", "outputs"):
    fields[key] = {k: tuple(v) for k, v in fields[key].items()}
  file = np.load(fixtures / f"stage1_{name}_params.npz")
  params = traverse_util.unflatten_dict(
      {tuple(k.split("/")[1:]): file[k] for k in file.files
       if k.startswith("params/")})
  arrays = {"params": params, "state": {
      "dictionary": file["state/dictionary"], "counts": file["state/counts"]}}
  x, target = labels_of(file["batch/labels"], meta)
  return make(fields), arrays, x, target, file["batch/image"]


def labels_of(labels, meta):
  """Integer patches, and the same with what gives no loss set to -1."""
  def patches(x):
    batch, height, width = x.shape
    x = x.reshape(batch, height // 16, 16, width // 16, 16)
    return x.transpose(0, 1, 3, 2, 4).reshape(batch, -1, 256).astype(np.int32)

  if meta["task"] == "panoptic_task":
    x = {"semantics": patches(labels[..., 0]),
         "instances": patches(labels[..., 1])}
    return x, x
  bins = meta["model"]["outputs"]["depth"][0]
  share = (labels[..., 0] - meta["min_depth"]) / (
      meta["max_depth"] - meta["min_depth"])
  x = patches(np.clip(np.floor(share * bins), 0, bins - 1))
  return {"depth": x}, {"depth": np.where(x == 0, -1, x)}


def training_pass(model, state, x, target, ctx):
  """A function of (params, commitment weight) -> loss and all it met."""
  def loss(params, weight):
    arrays = {"params": params, "state": state}
    coded = model.oracle(arrays, x, ctx)
    out = {"bottleneck": bottleneck(model, params, x, ctx),
           "code": coded.code, "bottleneck_q": coded.z_BLE}
    for key, logits in model.base_model(arrays, coded.z_BLE, ctx).items():
      out[f"logits/{key}"] = logits
      out[f"loss/loss_{key}"] = losses.softmax_cross_entropy(
          logits, target[key])
    z_BLE = model.embed(arrays, coded.code)
    for key, logits in model.base_model(arrays, z_BLE, ctx).items():
      out[f"logits_from_code/{key}"] = logits
    out["loss_commitment"] = coded.logs["code/commitment"]
    # Without splitting, as the recordings.
    learner = dataclasses.replace(model.quantizer, dict_splitting=False)
    out["after"], _ = learner.learn(state, coded.stats, jax.random.key(0))
    total = sum(jnp.mean(v) for k, v in out.items() if k.startswith("loss/"))
    return total + weight * out["loss_commitment"], out
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def assert_same(ours, theirs, scale=None):
  scale = np.abs(theirs).max() if scale is None else scale
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


def assert_same_grads(grads, file):
  grads = traverse_util.flatten_dict(grads, sep="/")
  names = {k.removeprefix("grad/") for k in file.files if "grad/" in k}
  assert set(grads) == names
  typical = np.median([np.abs(file[f"grad/{k}"]).max() for k in names])
  for name in sorted(names):
    theirs = file[f"grad/{name}"]
    # The gradient of the keys' biases is zero but for rounding, in both.
    scale = typical if name.endswith("key/bias") else None
    assert_same(grads[name], theirs, scale)


@pytest.mark.parametrize("name", (
    "panoptic_resize16", "panoptic_einsum9", "depth"))
def test_a_training_pass_equals_the_original(fixtures, name):
  model, arrays, x, target, ctx = load_case(fixtures, name)
  params, state = arrays["params"], arrays["state"]
  file = np.load(fixtures / f"stage1_{name}_out.npz")
  grad_file = np.load(fixtures / f"stage1_{name}_grad.npz")
  step = training_pass(model, state, x, target, ctx)
  (loss, out), grads = step(params, 0.0)
  after = out.pop("after")
  np.testing.assert_array_equal(out.pop("code"), file["code"])
  for key, value in out.items():
    assert_same(value, file[key])
  assert_same(loss, grad_file["loss"])
  assert_same(vq.codewords(vq.from_state(state)), file["codewords"])
  assert_same(after["dictionary"], grad_file["state_after/dictionary"])
  assert_same(after["counts"], grad_file["state_after/counts"])
  assert_same_grads(grads, grad_file)
  if name == "panoptic_resize16":
    file = np.load(fixtures / f"stage1_{name}_grad_wcommit025.npz")
    (loss, _), grads = step(params, 0.25)
    assert_same(loss, file["loss"])
    assert_same_grads(grads, file)


@pytest.mark.parametrize("task", LABELS)
def test_paper_size_parameters_have_the_published_names(fixtures, task):
  published = {}
  text = (fixtures / f"param_tree_stage1_{task}.txt").read_text()
  for line in text.splitlines()[1:]:
    name, shape, dtype = line.split("\t")
    assert dtype == "float32"
    published[name] = tuple(int(n) for n in re.findall(r"\d+", shape))
  model = make(BASE, inputs=LABELS[task], outputs=LABELS[task])
  state = jax.eval_shape(model.init, jax.random.key(0))["state"]
  ours = {f"params/{k}": v for k, v in shapes(model).items()}
  ours |= {f"state/{k}": v.shape for k, v in state.items()}
  assert ours == published


@pytest.mark.parametrize("task,bottleneck,expected", (
    ("panoptic", "resize", 223_593_984), ("panoptic", "linear", 224_118_272),
    ("depth", "resize", 232_249_600), ("color", "resize", 132_701_184)))
def test_paper_size_parameter_counts(task, bottleneck, expected):
  model = make(BASE, inputs=LABELS[task], outputs=LABELS[task],
               bottleneck=bottleneck)
  assert count(shapes(model)) == expected


def test_paper_size_oracle_and_base_model():
  both = shapes(make(BASE, inputs=LABELS["panoptic"],
                     outputs=LABELS["panoptic"]))
  assert count(both, ORACLE.pattern) == 90_504_192
  alone = shapes(make(BASE, oracle_depth=0, inputs=LABELS["panoptic"],
                      outputs=LABELS["panoptic"]))
  assert count(alone) == 133_089_792
  assert alone == {k: v for k, v in both.items() if not ORACLE.fullmatch(k)}


@pytest.fixture(scope="module")
def new_panoptic():
  """A small model with the paper's classes as training starts with it."""
  spec = {"semantics": (134, 16), "instances": (100, 16)}
  model = make(inputs=spec, outputs=spec, bottleneck="linear")
  return model, jax.jit(model.init)(jax.random.key(0))


def test_the_first_loss_is_that_of_uniform_predictions(new_panoptic):
  model, arrays = new_panoptic
  logits = base_model(model, arrays, jnp.ones((1, 4, 6)),
                      jnp.ones((1, 16, 8, 3)))
  ids = jnp.full((1, 8, 16), 5)
  loss = sum(jnp.mean(losses.softmax_cross_entropy(x, ids))
             for x in logits.values())
  np.testing.assert_allclose(loss, 9.5030, atol=1e-4)


def test_parameters_start_at_the_published_scale(new_panoptic):
  _, arrays = new_panoptic
  params = traverse_util.flatten_dict(arrays["params"], sep="/")

  def xavier(fan_in, fan_out):
    return (2 / (fan_in + fan_out)) ** 0.5

  for name, std in {
      "embedding_semantics/kernel": (134 * 16) ** -0.5,
      "ctx_enc_embedding/kernel": 48 ** -0.5,
      "pos_embedding_decoder": 16 ** -0.5,
      "bottleneck_upsample": xavier(4, 8),
      "decoder_stem/kernel": 6 ** -0.5,
      "encoder/encoderblock_0/MultiHeadDotProductAttention_0/out/kernel":
          xavier(16, 16),
      "encoder/encoderblock_0/MlpBlock_0/Dense_1/kernel": xavier(16, 16),
  }.items():
    np.testing.assert_allclose(np.std(params[name]), std, rtol=0.25,
                               err_msg=name)


# Behaviour.


def cross_entropy(logits, x):
  loss_B = losses.per_example_mean(
      losses.softmax_cross_entropy(logits["seg"], x["seg"]))
  return loss_B, {"loss_seg": loss_B}


def test_the_loss_without_logits_is_that_of_the_logits(tiny):
  model, arrays, x, ctx = tiny
  # As large models run: layers in a scan, blocks computed twice.
  lean = with_network(model, scan_layers=True, remat="block")
  z_BLE = np.random.default_rng(2).normal(size=(2, 4, 6)).astype(np.float32)

  def of_logits(params, z_BLE):
    logits = model.base_model({**arrays, "params": params}, z_BLE, ctx)
    loss_B, logs = cross_entropy(logits, x)
    return jnp.mean(loss_B), jax.tree.map(jnp.mean, logs)

  def chunked(params, z_BLE):
    return lean.loss({**arrays, "params": params}, z_BLE, ctx, x,
                     cross_entropy, chunk_logits=2)

  ours, theirs = (
      jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
          arrays["params"], z_BLE) for loss in (chunked, of_logits))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
               ours, theirs)
  loss_of_each = jax.jit(model.loss_of_each, static_argnums=4)
  of_each, _ = loss_of_each(arrays, z_BLE, ctx, x, cross_entropy)
  assert of_each.shape == (2,)
  np.testing.assert_allclose(jnp.mean(of_each), theirs[0][0], rtol=1e-5)


def test_the_label_reaches_f_through_the_words_only(tiny):
  model, arrays, x, ctx = tiny
  coded = oracle(model, arrays, x, ctx)
  z_BLE = model.embed(arrays, coded.code)
  by_code = base_model(model, arrays, z_BLE, ctx)
  by_vectors = base_model(model, arrays, coded.z_BLE, ctx)
  jax.tree.map(np.testing.assert_array_equal, by_code, by_vectors)


@pytest.mark.parametrize("with_image", (True, False))
def test_the_image_is_seen_where_it_should_be(tiny, with_image):
  model, arrays, x, ctx = tiny
  model = with_network(model, with_encoder_ctx=with_image,
                       with_decoder_ctx=with_image)
  z_BLE = model.embed(arrays, jnp.array([[0, 1, 2, 3]] * 2))

  def run(ctx):
    return (bottleneck(model, arrays["params"], x, ctx),
            base_model(model, arrays, z_BLE, ctx)["seg"])

  for ours, other in zip(run(ctx), run(-ctx), strict=True):
    assert np.array_equal(ours, other) != with_image


def test_the_model_without_oracle_says_nothing(tiny):
  model, arrays, x, ctx = tiny
  model = with_network(model, oracle_depth=0)
  assert not model.has_oracle
  np.testing.assert_array_equal(
      model.embed_no_code(arrays, 2), np.zeros((2, 4, 6)))
  with pytest.raises(ConfigError, match="model.oracle_depth = 0"):
    model.oracle(arrays, x, ctx)


def test_bfloat16_decides_between_words_in_float32(tiny):
  model, arrays, x, ctx = tiny
  half = with_network(model, dtype="bfloat16")
  x_BLE = bottleneck(half, arrays["params"], x, ctx)
  assert x_BLE.dtype == jnp.float32
  np.testing.assert_allclose(
      x_BLE, bottleneck(model, arrays["params"], x, ctx), atol=0.15)
  logits = base_model(half, arrays, x_BLE, ctx)["seg"]
  assert logits.dtype == jnp.bfloat16


def test_grid_to_code_is_the_antialiased_linear_kernel_row_major():
  grid = np.random.default_rng(1).normal(size=(2, 8, 12, 3))
  weights = np.zeros((4, 8))  # 1 3 3 1 over two input steps, cut at the edge.
  for row in range(4):
    for offset, weight in zip((-1, 0, 1, 2), (1, 3, 3, 1), strict=True):
      if 0 <= 2 * row + offset < 8:
        weights[row, 2 * row + offset] = weight
  weights /= weights.sum(1, keepdims=True)
  expected = np.einsum("rh,bhwd->brwd", weights, grid)
  out = resize_grid(jnp.float32(grid.reshape(2, 96, 3)), (8, 12), (4, 12))
  np.testing.assert_allclose(out, expected.reshape(2, 48, 3), atol=1e-5)


@pytest.mark.parametrize("fields,message", (
    (dict(input_size=(16, 10)), r"patch_size = \(4, 4\).*\(16, 10\)"),
    (dict(num_heads=3), "num_heads = 3.*width 16"),
    (dict(width=0), "model.width = 0.*integer ≥ 1"),
    (dict(oracle_depth=-1), "model.oracle_depth = -1"),
    (dict(base_model_depth=2000), "model.base_model_depth = 2000.*1..1024"),
    (dict(dict_momentum=1.0), "model.dict_momentum = 1.0"),
    (dict(code_dropout="randon"), "model.code_dropout = 'randon'.*random"),
    (dict(dtype="float16"), "model.dtype = 'float16'.*bfloat16"),
    (dict(attention="flash"), "model.attention = 'flash'.*fused"),
    (dict(remat="all"), "model.remat = 'all'.*block"),
    (dict(scan_layers="yes"), "model.scan_layers = 'yes'.*True or False"),
    (dict(inputs={"seg": (3, 9)}), "model.inputs.seg is for patches of 9"),
    (dict(outputs={}), "model.outputs = {}"),
))
def test_sizes_that_do_not_fit_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    make(**fields)


def test_the_words_may_lie_on_the_grid_of_the_patches():
  model = make(input_size=(8, 12), code_len=6, code_grid=(2, 3))
  assert model.grid == (2, 3)
  x_BND = jnp.arange(12.0).reshape(1, 6, 2)
  between = model.vit.make_bottleneck()
  # Each patch has its own word: nothing is resized.
  np.testing.assert_array_equal(between.to_code_len(None, x_BND), x_BND)
  np.testing.assert_array_equal(between.to_grid(None, x_BND), x_BND)


def test_a_config_block_makes_a_model_that_hashes():
  block = {**TINY, "input_size": [16, 8], "inputs": {"seg": [3, 16]}}
  model = make_model("proj.uvim.vit", block, "config.model")
  again = make_model("vit", TINY, "config.model")
  assert model == again and hash(model) == hash(again)
  with pytest.raises(ConfigError, match="widht.*Did you mean.*width"):
    make_model("vit", {**block, "widht": 8}, "config.model")
  del block["width"]
  with pytest.raises(ConfigError, match="Missing key 'config.model.width'"):
    make_model("vit", block, "config.model")
