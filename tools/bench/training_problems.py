"""What both sides train: one problem for each stage.

B batch · L code length · E codeword size

Ours is the step of the train loop. The naive one differs from it in its loss
(tools/bench/naive_models.py) and in its Adafactor
(tools/bench/naive_optimizer.py). Both share the rest of the optimizer and what
the codebook learns.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tools.bench import naive_models, naive_optimizer, noise
from tools.bench.sizes import Fields
from trainers import step
from trainers.families.base import Family, Report
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim.codes import usage, vq
from uvim.config import resolve
from uvim.learn.state import TrainState
from uvim.typing import PyTree

_TASK = "panoptic_segmentation"
# Steps of an epoch; only that there is a number matters.
_EPOCH_STEPS = 1000


class NaiveVqvae(VqvaeFamily):
  """Stage I with one-hot labels, whole logits and kept attention scores."""

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del frozen, step
    arrays = {"params": params, "state": extra["state"]}

    def drop(z_BLE):
      return self.model.drop_for_training(arrays, z_BLE, rngs_B)

    # The quantizer is ours on both sides, see the text of naive_models.
    codebook = vq.from_state(extra["state"])
    loss, (x_BLE, code_BL) = naive_models.stage_i_loss(
        self.model.vit, params, codebook, batch, drop)
    counts_Q, sums_QE = vq.statistics(x_BLE, code_BL, self.num_words())
    return loss, Report(logs={}, stats={"counts": counts_Q, "sums": sums_QE})


class NaiveLm(LmFamily):
  """Stage II with one-hot targets and the naive oracle."""

  def targets(self, frozen, batch):
    # As ours: given codes take the place of the oracle.
    if "code" in batch:
      return batch["code"]
    network = self.oracle.model.vit
    labels = naive_models.label_patches(network, batch["labels"])
    x_BLE = naive_models.encode(
        network, frozen["params"], labels, batch["image"])
    return vq.lookup(vq.from_state(frozen["state"]), x_BLE)

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del extra, rngs_B, step
    # The oracle is frozen: no gradient flows into it.
    code_BL = jax.lax.stop_gradient(self.targets(frozen, batch))
    loss = naive_models.stage_ii_loss(
        self.prior.lm, params, batch["image"], code_BL + 1)
    counts_Q = usage.histogram(code_BL, self.num_words())
    return loss, Report(logs={}, stats={"counts": counts_Q})


@dataclasses.dataclass(frozen=True)
class Problem:
  """What both sides train.

  Attributes:
    family: gives our loss.
    naive_family: gives the naive loss.
    init: key → state, of both.
    ours: our step, (state, frozen, batch) → (state, logs).
    naive: the naive step, likewise.
    frozen: arrays, or shapes, of stage II's oracle; None in stage I.
  """
  family: Family
  naive_family: Family
  init: Callable[[jax.Array], TrainState]
  ours: Callable[..., Any]
  naive: Callable[..., Any]
  frozen: PyTree

  def state_shapes(self) -> TrainState:
    """Shapes of the state."""
    return jax.eval_shape(self.init, jax.random.PRNGKey(0))

  def first_state(self) -> TrainState:
    """A state before the first step, on the host."""
    shapes = self.state_shapes()

    def zeros(shape):
      return np.zeros(shape.shape, shape.dtype)

    # Whatever else an optimizer or a family keeps starts from zeros.
    state = jax.tree.map(zeros, shapes)
    extra = dict(state.extra)
    if "state" in extra:
      extra["state"] = noise.draw_quantizer_state(shapes.extra["state"])
    # Noise instead of the starting values: see `noise.draw_params`.
    return state.replace(params=noise.draw_params(shapes.params), extra=extra)


def stage_i(model: Fields, batch_size: int, optimizer: Fields) -> Problem:
  """A stage I problem.

  Args:
    model: fields of `config.model`.
    batch_size: images of a step.
    optimizer: config fields of the optimizer.
  """
  config = _resolve(
      optimizer, batch_size, task=_TASK, model_name="vit", model=dict(model))
  return _make_problem(VqvaeFamily(config), NaiveVqvae(config), frozen=None)


def stage_ii(model: Fields, oracle: Fields, batch_size: int,
             optimizer: Fields, *, only_compiled: bool = False) -> Problem:
  """A stage II problem, whose oracle is noise.

  Args:
    model: fields of `config.model`.
    oracle: fields of `config.oracle.model`.
    batch_size: images of a step.
    optimizer: config fields of the optimizer.
    only_compiled: the oracle has shapes but no numbers. The program is then
      that of an accelerator, which does not take the batch in halves.
  """
  oracle_config = dict(
      task=_TASK, model_init="noise", model_name="vit", model=dict(oracle))
  config = _resolve(
      optimizer, batch_size, oracle=oracle_config, model_name="lm",
      model=dict(model))
  family = LmFamily(config)
  store = noise.NoiseStore()
  if only_compiled:
    store = noise.ShapeStore()
    # A batch is split from this size on. None is that large.
    family.prior = dataclasses.replace(family.prior, split_from=sys.maxsize)
  frozen = family.open(store).frozen
  return _make_problem(family, NaiveLm(config), frozen)


def _resolve(optimizer, batch_size, **changes):
  # A config must name its data, though nothing here reads any.
  fields: Mapping[str, Any] = dict(
      dataset="none", train_split="train", pp_train="", batch_size=batch_size)
  return resolve({**fields, **optimizer, **changes})


def _make_problem(family, naive_family, frozen):
  """Both steps, with one initial state for both."""
  config = family.config
  init, tx, _ = step.make_init(family, config, config.total_steps)
  # Shapes suffice for the rules of the optimizer.
  params, _ = jax.eval_shape(naive_family.init, jax.random.key(0))
  # Its state has the same structure as that of ours, so one `init` serves both.
  naive_tx = naive_optimizer.make_optimizer(config, params)
  # Both steps come from the same maker, so they differ in loss and scaler
  # alone.
  ours = step.make_train_step(family, tx, epoch_steps=_EPOCH_STEPS)
  naive = step.make_train_step(
      naive_family, naive_tx, epoch_steps=_EPOCH_STEPS)
  return Problem(family, naive_family, init, ours, naive, frozen)
