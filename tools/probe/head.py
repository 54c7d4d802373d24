"""A head of two layers on frozen features: classes of the pixels of a token.

M examples · T tokens of the encoder's grid · N = M · T tokens · D width of the
encoder · K classes · P pixels of a token in the head's labels · B tokens of a
step
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tools.probe.examples import Examples
from uvim import progress
from uvim.nn import losses
from uvim.registry import ConfigError
from uvim.typing import Array, Float, Int, PyTree

# So many tokens tell mean and deviation of all well enough.
_NUM_MEASURED = 50_000


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a head is trained.

  Attributes:
    num_classes: K.
    num_pixels: P.
    hidden: width of the first layer.
    steps: how many steps of Adam.
    batch_size: B; if there are fewer labelled tokens, all of them.
    lr: first step size of Adam; it falls to 0 along a cosine.
    wd: weight decay.
    seed: of the first parameters and of the order of the tokens.
  """
  num_classes: int
  num_pixels: int
  hidden: int = 512
  steps: int = 1500
  batch_size: int = 2048
  lr: float = 1e-3
  wd: float = 1e-4
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Head:
  """A trained head; call it with features [..., D] for logits [..., K, P]."""
  settings: Settings
  params: PyTree

  def __call__(self, features: Array | np.ndarray) -> Array:
    return _run(self.settings, self.params, features)


def train(settings: Settings, examples: Examples) -> Head:
  """Trains a head.

  Args:
    settings: how.
    examples: those to learn from.

  Raises:
    ConfigError: no pixel of the examples has a label.
  """
  *_, width = examples.features_MTD.shape
  features_ND = examples.features_MTD.reshape(-1, width)
  ids_NP = examples.ids_MTP.reshape(-1, settings.num_pixels)
  # A token without any label teaches nothing.
  labelled = np.flatnonzero((ids_NP >= 0).any(axis=1))
  if not labelled.size:
    raise ConfigError("No pixel of config.train_split has a label.")
  params = _init(settings, features_ND[labelled])
  schedule = optax.cosine_decay_schedule(settings.lr, settings.steps)
  tx = optax.adamw(schedule, weight_decay=settings.wd)
  step = functools.partial(_step, settings, tx)
  step = jax.jit(step, donate_argnums=(0, 1))
  layers = params["layers"]
  opt_state = tx.init(layers)
  batches = progress.bar(
      _batches(settings, labelled), total=settings.steps, label="head",
      unit="steps")
  for rows in batches:
    layers, opt_state = step(
        layers, opt_state, params["scaling"], features_ND[rows], ids_NP[rows])
  return Head(settings, {**params, "layers": layers})


def _init(settings: Settings, features_ND: np.ndarray) -> PyTree:
  """Fresh layers, and what gives the features mean 0 and deviation 1."""
  stride = max(1, len(features_ND) // _NUM_MEASURED)
  measured_ND = features_ND[::stride].astype(np.float32)
  deviation_D = measured_ND.std(axis=0)
  width = measured_ND.shape[1]
  num_outputs = settings.num_classes * settings.num_pixels
  key_1, key_2 = jax.random.split(jax.random.key(settings.seed))
  make = jax.nn.initializers.lecun_normal()
  return {
      "scaling": {
          "mean": jnp.asarray(measured_ND.mean(axis=0)),
          # A feature that never changes has the deviation 0.
          "deviation": jnp.asarray(np.maximum(deviation_D, 1e-6)),
      },
      "layers": {
          "kernel_1": make(key_1, (width, settings.hidden)),
          "bias_1": jnp.zeros(settings.hidden),
          "kernel_2": make(key_2, (settings.hidden, num_outputs)),
          "bias_2": jnp.zeros(num_outputs),
      },
  }


def _logits(
    settings: Settings, params: PyTree, features: Float[Array, "*b D"]
) -> Float[Array, "*b K P"]:
  scaling = params["scaling"]
  layers = params["layers"]
  *batch, width = features.shape
  rows_ND = features.reshape(-1, width).astype(jnp.float32)
  scaled_ND = (rows_ND - scaling["mean"][None]) / scaling["deviation"][None]
  hidden = scaled_ND @ layers["kernel_1"] + layers["bias_1"][None]
  hidden = jax.nn.gelu(hidden, approximate=False)
  outputs = hidden @ layers["kernel_2"] + layers["bias_2"][None]
  shape = (*batch, settings.num_classes, settings.num_pixels)
  return outputs.reshape(shape)


_run = jax.jit(_logits, static_argnums=0)


def _loss(
    layers: PyTree,
    settings: Settings,
    scaling: PyTree,
    features_BD: Float[Array, "B D"],
    ids_BP: Int[Array, "B P"],
) -> Array:
  """Mean cross-entropy of the labelled pixels."""
  params = {"layers": layers, "scaling": scaling}
  logits_BKP = _logits(settings, params, features_BD)
  # Zero where a pixel has no label.
  loss_BP = losses.softmax_cross_entropy(logits_BKP, ids_BP)
  num_labelled = jnp.sum(ids_BP >= 0)
  return jnp.sum(loss_BP) / jnp.maximum(num_labelled, 1)


def _step(settings, tx, layers, opt_state, scaling, features_BD, ids_BP):
  """One step of Adam; returns the new layers and state."""
  gradient = jax.grad(_loss)(layers, settings, scaling, features_BD, ids_BP)
  updates, opt_state = tx.update(gradient, opt_state, layers)
  return optax.apply_updates(layers, updates), opt_state


def _batches(settings: Settings, labelled: np.ndarray
             ) -> Iterator[np.ndarray]:
  """Indices of the tokens of each step; each epoch has an order of its own."""
  rng = np.random.default_rng(settings.seed)
  batch_size = min(settings.batch_size, len(labelled))
  waiting = rng.permutation(labelled)
  for _ in range(settings.steps):
    if len(waiting) < batch_size:
      waiting = np.concatenate([waiting, rng.permutation(labelled)])
    rows = waiting[:batch_size]
    waiting = waiting[batch_size:]
    # Reading in the order of the memory is faster.
    yield np.sort(rows)
