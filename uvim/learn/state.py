"""What a training run carries from one step to the next.

The state holds everything that a run needs to go on, bit for bit. The order of
the data is a function of (seed, step). So the step is also the position in the
data.
"""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from uvim.typing import PyTree


class TrainState(flax.struct.PyTreeNode):
  """The state of a run; a pytree, donated to the train step.

  Attributes:
    step: int32 []; the number of updates made.
    params: nested dict of f32 arrays under the published names.
    opt_state: the state of the optimizer in uvim/learn/optim.py.
    extra: name → tree of arrays that change but are no parameters. Each
      model family decides what it needs. Three names mean the same in every
      family:
      "state" – what the quantizer learns, such as its codebook;
      "usage" – int32 [Q], how often this epoch used each word. With it, a
      resumed run reports the same figures;
      "ema" – averaged parameters. If they are there, predictions use them.
    rng: uint32 [2], the key of the run. It never changes: a step uses
      `state.step_rng()`. It is a raw key and not a typed one, so checkpoints,
      shardings and donation treat it like any other array.
  """
  step: jax.Array
  params: PyTree
  opt_state: Any
  extra: dict[str, PyTree]
  rng: jax.Array

  @classmethod
  def create(cls, *, params: PyTree, tx: optax.GradientTransformation,
             rng: jax.Array,
             extra: dict[str, PyTree] | None = None) -> "TrainState":
    """The state at step 0. `rng` may be a raw or a typed key."""
    # Store the raw key; the class docstring says why.
    if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
      rng = jax.random.key_data(rng)
    return cls(step=jnp.zeros((), jnp.int32), params=params,
               opt_state=tx.init(params), extra=extra or {}, rng=rng)

  def step_rng(self) -> jax.Array:
    """The key of the current step: the same after a resume."""
    # A function of key and step, so no split keys need to be stored.
    return jax.random.fold_in(self.rng, self.step)

  def apply_gradients(self, tx: optax.GradientTransformation, grads: PyTree,
                      **changes: Any) -> "TrainState":
    """One update. `changes` are other fields that change (extra=…)."""
    # The optimizer needs the parameters too, for their decay.
    updates, opt_state = tx.update(grads, self.opt_state, self.params)
    return self.replace(
        step=self.step + 1, params=optax.apply_updates(self.params, updates),
        opt_state=opt_state, **changes)
