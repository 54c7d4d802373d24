"""One training step: what a stage supplies, and what is made of it.

B batch (global) · L code length · E codeword size · Q dictionary size

A batch may be computed in parts, one after the other
(`config.grad_accum_steps`). A part's loss returns sums of what the dictionary
learns from, and random numbers are drawn with a key per example, so the update
is that of the whole batch to float rounding, however many parts there are.
"""

import abc
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from uvim.codes.vq import Codebook, perplexity
from uvim.config import TrainConfig
from uvim.learn import optim, sharding
from uvim.learn.state import TrainState
from uvim.typing import Array, Float


class Aux(flax.struct.PyTreeNode):
  """What a stage's loss reports besides the scalar.

  Attributes:
    counts_Q: how often each codeword was chosen; None without an oracle.
    sums_QE: per codeword the sum of the vectors that chose it; None where no
      dictionary learns from them.
    logs: name → scalar, a mean over the examples.
  """

  counts_Q: Float[Array, "Q"] | None
  sums_QE: Float[Array, "Q E"] | None
  logs: dict[str, jax.Array]


class Stage(abc.ABC):
  """What stage I and stage II each supply.

  Attributes:
    config: the TrainConfig.
    dict_size: number of words of the code.
    frozen: arrays that are used but not trained (stage II: the oracle); an
      argument of the jitted step, never a captured constant.
    initial: arrays by name that replace those of `init` in a new run.
    codes: what `pp.stream.train_batches` takes under that name; stage II
      with a code cache.
    predict_fns: name → function (variables, batch, **options) → dict of
      [B, …]; variables = {"params", "codebook", "frozen"}.
  """

  config: TrainConfig
  dict_size: int
  frozen: Any = None
  initial: dict[str, np.ndarray] = {}
  codes: np.ndarray | None = None
  predict_fns: dict[str, Any]

  def jitted(self, name: str, **options):
    """The compiled prediction function (variables, batch); compiled once.

    Options are Python values that are built into the program; but not a seed,
    so that another seed is not another program.
    """
    traced = {k: np.uint32(options.pop(k)) for k in ("seed",) if k in options}
    key = name, repr(sorted(options.items()))
    cache = self.__dict__.setdefault("_jitted", {})
    if key not in cache:
      cache[key] = jax.jit(functools.partial(
          self.predict_fns[name], **options))
    return functools.partial(cache[key], **traced)

  def scored(self, name: str) -> dict[str, Any]:
    """The options of the first evaluator of this prediction function.

    For pictures: they then show what is scored, and compile nothing new.
    """
    return next((dict(e.pred_kw) for e in self.config.evals
                 if e.pred == name), {})

  @abc.abstractmethod
  def init(self, rng) -> tuple[Any, Codebook | None]:
    """Parameters and codebook at step 0; traceable."""

  @abc.abstractmethod
  def check_batch(self, batch) -> None:
    """Raises a ConfigError if the models cannot take such a numpy batch."""

  @abc.abstractmethod
  def loss(self, params, codebook, frozen, batch, rngs_B):
    """The training loss, a mean over the examples: (scalar, Aux).

    Args:
      params: what the gradient is taken of.
      codebook: as it was before this step.
      frozen: see above.
      batch: a batch, or one of its parts.
      rngs_B: a key for each example of it; see `example_rngs`.
    """

  def learn_codes(self, codebook, aux: Aux, rng):
    """(codebook after the step, logs), from the sums over the whole batch."""
    del aux, rng
    return codebook, {}

  @abc.abstractmethod
  def panel(self, variables, batch) -> dict[str, np.ndarray]:
    """Title → uint8 pictures [B, H, W, 3] of a few examples."""


def make_init(stage: Stage, config: TrainConfig, total_steps: int):
  """(init function rng → TrainState, optimizer, schedules)."""
  params, _ = jax.eval_shape(stage.init, jax.random.key(0))
  tx, schedules = optim.make_optimizer(
      optax_name=config.optax_name, optax=config.optax, lr=config.lr,
      wd=config.wd, lr_mults=config.lr_mults, schedule=config.schedule,
      grad_clip_norm=config.grad_clip_norm, params=params,
      total_steps=total_steps)

  def init(rng):
    init_rng, rng = jax.random.split(rng)
    # The same numbers as those of the raw key, and one trace for both.
    params, codebook = stage.init(jax.random.wrap_key_data(init_rng))
    return TrainState.create(
        params=params, tx=tx, codebook=codebook, rng=rng,
        usage=jnp.zeros((stage.dict_size,), jnp.int32))

  return init, tx, schedules


def example_rngs(rng, batch_size: int):
  """A key for each row of the global batch: what it draws depends on no other
  row, so not on the parts or devices the batch is spread over."""
  return jax.vmap(functools.partial(jax.random.fold_in, rng))(
      jnp.arange(batch_size))


def make_train_step(stage: Stage, tx, *, epoch_steps: int, shardings=None):
  """The function (state, frozen, batch) → (state, logs), to be jitted.

  Args:
    stage: what is trained; its config says in how many parts, and whether a
      step that is not finite is skipped: `logs["bad"]` is then 1, and of the
      state nothing but the step changes.
    tx: the optimizer.
    epoch_steps: after so many steps the usage of the codes is counted anew.
    shardings: of the state. The gradients are given those of their
      parameters, so that no device ever holds the whole of a split one's.
  """
  config = stage.config

  def train_step(state: TrainState, frozen, batch):
    example_rng, codes_rng = jax.random.split(state.step_rng())
    rows = len(next(iter(batch.values())))
    (loss, aux), grads = _value_and_grad(
        stage, state, frozen, batch, example_rngs(example_rng, rows),
        None if shardings is None else shardings.params)
    codebook, codes_logs = stage.learn_codes(state.codebook, aux, codes_rng)
    usage_Q = state.usage
    logs = {"loss": loss, "grad_norm": optax.tree.norm(grads),
            **aux.logs, **codes_logs}
    if aux.counts_Q is not None:
      usage_Q = jnp.where(state.step % epoch_steps == 0, 0, usage_Q)
      usage_Q += aux.counts_Q.astype(jnp.int32)
      logs |= {"code/usage": jnp.mean(usage_Q > 0),
               "code/perplexity": perplexity(usage_Q)}
    new = state.apply_gradients(tx, grads, codebook=codebook, usage=usage_Q)
    if config.skip_bad_steps:
      bad = ~(jnp.isfinite(loss) & jnp.isfinite(logs["grad_norm"]))
      new = jax.tree.map(
          functools.partial(jnp.where, bad), state, new).replace(step=new.step)
      logs["bad"] = bad.astype(jnp.int32)
    return new, logs

  return train_step


def _value_and_grad(stage, state, frozen, batch, rngs_B, param_shardings):
  """((loss, aux), gradients) of a batch, computed in the config's parts."""
  num_parts = stage.config.grad_accum_steps

  # Jitted: the shapes that the scan wants to know come from the same trace.
  @jax.jit
  def part(params, codebook, frozen, batch, rngs_B):
    if param_shardings is not None:
      # Whole for as long as they are used. Left split along the batch's axis,
      # the partitioner may spread a product over it and gather the batch.
      params = jax.lax.with_sharding_constraint(
          params, sharding.without_axis(param_shardings, sharding.DATA_AXIS))
    out, grads = jax.value_and_grad(stage.loss, has_aux=True)(
        params, codebook, frozen, batch, rngs_B)
    if param_shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, param_shardings)
    return out, grads

  fixed = state.params, state.codebook, frozen
  if num_parts == 1:
    return part(*fixed, batch, rngs_B)
  # Row r is in part r mod n: every device computes its own rows of each.
  rows = jax.tree.map(
      lambda x: x.reshape(-1, num_parts, *x.shape[1:]), (batch, rngs_B))

  def take(i):
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), rows)

  def add(total, i):
    return jax.tree.map(jnp.add, total, part(*fixed, *take(i))), None

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                       jax.eval_shape(part, *fixed, *take(0)))
  ((loss, aux), grads), _ = jax.lax.scan(add, zeros, jnp.arange(num_parts))
  loss, logs, grads = jax.tree.map(
      lambda x: x / num_parts, (loss, aux.logs, grads))
  return (loss, aux.replace(logs=logs)), grads
