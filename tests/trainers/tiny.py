"""Stages of a size that compiles in seconds, on made-up batches."""

import jax
import numpy as np

from trainers.step import make_init, make_train_step
from uvim import files
from uvim.config import resolve
from uvim.learn import sharding
from uvim.store import start_from

CLASSES, INSTANCES, WORDS, LENGTH = 5, 4, 8, 4


def stage_i_model(**changes):
  labels = {"semantics": (CLASSES, 64), "instances": (INSTANCES, 64)}
  return dict(dict(
      input_size=(16, 16), patch_size=(8, 8), code_len=LENGTH, width=32,
      oracle_depth=1, base_model_depth=1, mlp_dim=32, num_heads=2,
      dict_size=WORDS, codeword_dim=8, inputs=labels, outputs=labels),
      **changes)


def stage_i_config(model=None, **changes):
  """A resolved stage I config; `model` are changes to the model's fields."""
  return resolve(dict(dict(
      task="panoptic_segmentation", dataset="none", train_split="train",
      batch_size=8, pp_train="", model_name="vit",
      model=stage_i_model(**(model or {})), lr=0.01, total_steps=20,
      optax_name="scale_by_adafactor", grad_clip_norm=1.0), **changes))


def stage_ii_config(oracle, model=None, **changes):
  """A resolved stage II config on the stage I checkpoint `oracle`."""
  oracle_model = stage_i_model()
  lm = dict(dict(
      num_layers=1, num_heads=2, mlp_dim=32, emb_dim=32,
      patches={"size": (8, 8)}, input_size=(16, 16), vocab_size=WORDS + 1,
      seq_len=LENGTH), **(model or {}))
  return resolve(dict(dict(
      dataset="none", train_split="train", batch_size=8, pp_train="",
      oracle=dict(task="panoptic_segmentation", model_init=str(oracle),
                  model_name="vit", model=oracle_model),
      model_name="lm", model=lm, lr=0.01, total_steps=20,
      optax_name="scale_by_adafactor"), **changes))


def save_stage_i(family, path, seed=3, **params_parts):
  """Writes a freshly drawn stage I model as .npz.

  Its heads are drawn too: with their zeros every code would give one output.
  `params_parts` replace what was drawn.
  """
  params, extra = _draw(family.model, seed, family)
  rng = np.random.default_rng(seed)
  for key in sorted(k for k in params if k.startswith("head_"))[::-1]:
    kernel = params[key]["kernel"]
    params[key]["kernel"] = rng.normal(size=kernel.shape).astype(np.float32)
  params = {**params, **params_parts}
  files.save_npz(path, {"params": params, "state": extra["state"]})


# Model and seed → what was drawn; many tests draw the same.
_DRAWN = {}


def _draw(model, seed, family):
  if (model, seed) not in _DRAWN:
    drawn = jax.jit(family.init)(jax.random.key(seed))
    _DRAWN[model, seed] = jax.device_get(drawn)
  # New dicts, which a caller may change.
  return jax.tree.map(lambda leaf: leaf, _DRAWN[model, seed])


def open_family(family):
  """What the family reads from disk."""
  return family.open(start_from.Store())


def variables(family, state, frozen=None):
  """What predictors take, of a TrainState."""
  return family.variables(state.params, state.extra, frozen)


def batch(step=0, size=8):
  """A batch of noise with blocky labels; a function of `step`."""
  rng = np.random.default_rng(step)
  image = rng.uniform(-1, 1, (size, 16, 16, 3)).astype(np.float32)
  blocks = np.stack([rng.integers(0, k, (size, 4, 4))
                     for k in (CLASSES, INSTANCES)], -1).astype(np.int32)
  return {"image": image, "labels": blocks.repeat(4, 1).repeat(4, 2),
          "image/id": np.arange(size, dtype=np.uint32)}


def run(family, *, steps=3, mesh=(("data", -1),), rules=((".*", "replicate"),),
        batches=None, watch=None):
  """Trains on `batch(0…)`; returns (state, list of logs), on the host.

  `watch` is called with the first state and that after each step, on the host.
  """
  mesh = sharding.make_mesh(mesh)
  init, tx, _ = make_init(family, family.config, family.config.total_steps)
  rng = jax.random.PRNGKey(0)
  shardings = sharding.state_shardings(
      jax.eval_shape(init, rng), mesh, rules)
  step_fn = jax.jit(
      make_train_step(family, tx, epoch_steps=2, shardings=shardings),
      donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh)))
  frozen = open_family(family).frozen
  logs = []
  with jax.set_mesh(mesh):
    state = jax.jit(init, out_shardings=shardings)(rng)
    if watch:
      watch(jax.device_get(state))
    frozen = jax.device_put(frozen, sharding.replicated(mesh))
    for step in range(steps):
      data = sharding.shard_batch((batches or batch)(step), mesh)
      state, log = step_fn(state, frozen, data)
      logs.append(jax.device_get(log))
      if watch:
        watch(jax.device_get(state))
  return jax.device_get(state), logs
