"""Floating-point operations of a traced function, loops counted in full.

The compiler's own cost analysis counts the body of a loop once. A program that
works in chunks or scans over layers would then seem cheaper than it is. So the
traced program is walked here, by one rule for both sides:

* a product of matrices [m, k] x [k, n] costs 2 m n k;
* elementwise arithmetic, a reduction and a scattered addition cost one per
  element;
* the body of a scan counts as often as it runs;
* cuDNN's attention, which shows no products, costs two products of queries
  with keys, and its gradient four; what it computes twice is its own affair;
* what is only moved (gather, transpose, cast) is free.

On a program without loops this agrees with the compiler to a few per cent.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

_ELEMENTWISE = frozenset("""
    abs add add_any cos cumsum div erf exp exp2 integer_pow log log1p logistic
    max min mul neg pow rsqrt select_n sin sqrt square sub tanh""".split())
# Products that cuDNN's attention stands for, by the primitive's name. Those of
# a gradient: of the weights, and of queries, keys and values.
_ATTENTION_PRODUCTS = {
    "dot_product_attention_fwd_wrapper": 2,
    "dot_product_attention_bwd_wrapper": 4,
}


def count(jaxpr: Any, platform: str = "cpu") -> float:
  """Operations of one call.

  Args:
    jaxpr: of `jax.jit(fn).trace(…)` or `jax.make_jaxpr`.
    platform: which branch to follow where the program depends on it.

  Returns:
    The number. The body of a `while` whose end is decided by data counts once;
    of other branches the most expensive one counts.
  """
  # A closed jaxpr holds an open one.
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return sum(_count_equation(equation, platform) for equation in jaxpr.eqns)


def _count_equation(equation, platform) -> float:
  """Operations of one equation, by the rules of the module."""
  name = equation.primitive.name
  if name == "cond":
    return _count_branch(equation.params, platform)
  if name == "dot_general":
    return _count_product(equation)
  if name == "conv_general_dilated":
    return _count_convolution(equation)
  if name in _ATTENTION_PRODUCTS:
    return _ATTENTION_PRODUCTS[name] * _count_scores(equation)
  # The inner programs of a reduction and of a scattered addition combine two
  # numbers; the operands tell the cost.
  if name.startswith(("reduce", "arg")):
    return _num_floats(equation.invars[0])
  if name.startswith("scatter"):
    # The third operand holds the values that are added.
    return _num_floats(equation.invars[2]) if "add" in name else 0
  if name in _ELEMENTWISE:
    return _num_floats(equation.outvars[0])
  cost = 0
  for program in _inner_programs(equation.params):
    cost += count(program, platform)
  if name == "scan":
    # The compiler counts the body once; see the text of the module.
    cost *= equation.params["length"]
  return cost


def _inner_programs(params) -> Iterator[Any]:
  """The programs that an equation calls."""
  for value in params.values():
    parts = value if isinstance(value, (tuple, list)) else (value,)
    # A program may be open or closed, and stand alone or in a tuple.
    for part in parts:
      if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
        yield part


def _count_branch(params, platform) -> float:
  """Operations of the branch that runs, or of the most expensive one."""
  branches = params["branches"]
  platforms_of_branches = params.get("branches_platforms")
  if not platforms_of_branches:
    # Data decides at run time, so take the worst case.
    return max(count(branch, platform) for branch in branches)
  # None stands for all platforms that are not named.
  chosen = None
  for branch, platforms in zip(branches, platforms_of_branches, strict=True):
    if platforms is None:
      chosen = branch
    elif platform in platforms:
      chosen = branch
      break
  return count(chosen, platform)


def _count_product(equation) -> float:
  """2 m n k for [m, k] x [k, n]."""
  (contracted_axes, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  num_outputs = math.prod(equation.outvars[0].aval.shape)
  # A multiplication and an addition for each term of each sum.
  num_summed = math.prod(shape[axis] for axis in contracted_axes)
  return 2 * num_outputs * num_summed


def _count_scores(equation) -> float:
  """2 B T A H S, of queries [B, T, A, H] with keys [B, S, A, H]."""
  queries, keys = equation.invars[:2]
  _, num_keys, _, _ = keys.aval.shape
  return 2 * math.prod(queries.aval.shape) * num_keys


def _count_convolution(equation) -> float:
  """As a product: each output sums over one kernel."""
  kernel_shape = equation.invars[1].aval.shape
  channel_axis = equation.params["dimension_numbers"].rhs_spec[0]
  num_outputs = math.prod(equation.outvars[0].aval.shape)
  # All of the kernel but its output channels is summed.
  num_summed = math.prod(kernel_shape) / kernel_shape[channel_axis]
  return 2 * num_outputs * num_summed


def _num_floats(variable) -> int:
  """Elements of an operand; whole numbers and truth values do not count."""
  aval = variable.aval
  if not jnp.issubdtype(aval.dtype, jnp.floating):
    return 0
  return math.prod(aval.shape)
