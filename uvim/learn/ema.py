"""A running average of parameters, which predicts better than the last ones."""

from typing import Any

import jax
import jax.numpy as jnp

from uvim.typing import PyTree, Scalar


def move(average: PyTree, params: PyTree, decay: Any) -> PyTree:
  """The average after one more step.

  Args:
    average: before.
    params: of the same tree, after the step.
    decay: the share of the average that stays, a number or an array [].
  """

  def move_leaf(old, new):
    return old * decay + new * (1 - decay)

  return jax.tree.map(move_leaf, average, params)


def decay_at(updates: Any, decay: float) -> Scalar:
  """The decay after so many updates: less at first, at last `decay`.

  An average over more steps than there were would keep the first parameters,
  which know nothing.
  """
  return jnp.minimum(decay, (1 + updates) / (10 + updates))
