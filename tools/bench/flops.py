"""Floating-point operations of a traced function, loops counted in full.

The compiler's own cost analysis counts the body of a loop once, so a program
that works in chunks or scans over layers would seem cheaper than it is. Here
the traced program is walked instead: a product of matrices [m, k] x [k, n]
costs 2 m n k; elementwise arithmetic, a reduction and a scattered addition
cost one per element; the body of a scan counts as often as it runs. What is
only moved (gather, transpose, cast) is free. On a program without loops this
agrees with the compiler to a few per cent, and it is one rule for both sides.
"""

import math
from typing import Any

import jax.numpy as jnp

_ELEMENTWISE = frozenset("""
    abs add add_any cos cumsum div erf exp exp2 integer_pow log log1p logistic
    max min mul neg pow rsqrt select_n sin sqrt square sub tanh""".split())


def count(jaxpr: Any, platform: str = "cpu") -> float:
  """Operations of one call.

  Args:
    jaxpr: of `jax.jit(fn).trace(…)` or `jax.make_jaxpr`.
    platform: which branch to follow where the program depends on it.

  Returns:
    The number. The body of a `while` whose end is decided by data counts
    once; of other branches the dearest counts.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_equation(eqn, platform) for eqn in jaxpr.eqns)


def _equation(eqn, platform) -> float:
  name = eqn.primitive.name
  if name == "cond":
    return _branch(eqn.params, platform)
  if name == "dot_general":
    return _product(eqn)
  if name == "conv_general_dilated":
    return _convolution(eqn)
  # Their inner programs combine two numbers; the operands tell the cost.
  if name.startswith(("reduce", "arg")):
    return _size(eqn.invars[0])
  if name.startswith("scatter"):
    return _size(eqn.invars[2]) if "add" in name else 0
  if name in _ELEMENTWISE:
    return _size(eqn.outvars[0])
  inner = sum(count(part, platform) for part in _inner(eqn.params))
  return inner * eqn.params["length"] if name == "scan" else inner


def _inner(params):
  """The programs that an equation calls."""
  for value in params.values():
    for part in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
        yield part


def _branch(params, platform) -> float:
  costs = [count(branch, platform) for branch in params["branches"]]
  known = params.get("branches_platforms")
  if not known:
    return max(costs)
  # None stands for all platforms that are not named.
  named = [i for i, names in enumerate(known) if names and platform in names]
  return costs[named[0] if named else list(known).index(None)]


def _product(eqn) -> float:
  (contracted, _), _ = eqn.params["dimension_numbers"]
  shape = eqn.invars[0].aval.shape
  return (2 * math.prod(eqn.outvars[0].aval.shape)
          * math.prod(shape[axis] for axis in contracted))


def _convolution(eqn) -> float:
  kernel = eqn.invars[1].aval.shape
  out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
  return (2 * math.prod(eqn.outvars[0].aval.shape)
          * math.prod(kernel) / out_channels)


def _size(variable) -> int:
  """Elements of an operand; whole numbers and truth values are not counted."""
  aval = variable.aval
  floating = jnp.issubdtype(aval.dtype, jnp.floating)
  return math.prod(aval.shape) if floating else 0
