"""Norms, attention and MLPs under the names of Pix2Seq-D's arrays.

B batch · H W places of a map · C channels · T S query and key tokens
N tokens · D E widths · F MLP width

The computations are those of `uvim.nn`. But the arrays of the original have
other names than flax would give them (`gamma` and `beta`, `attention_output`).
Parameters and the statistics of norms are float32. `dtype` is the type of the
matrix products.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim.models.pix2seq_d import dropout
from uvim.nn import attention, dense
from uvim.nn.transformer import GELUS, LAYER_NORM_EPSILON
from uvim.typing import Array, Float, PRNGKey, Tokens

Map = Float[Array, "B H W C"]

# Of group norms and frozen batch norms.
_EPSILON = 1e-5
_LEAST_CHANNELS_OF_A_GROUP = 4
_MOST_GROUPS = 32

_fan_avg = functools.partial(
    nn.initializers.variance_scaling, mode="fan_avg", distribution="uniform")
# Kernels of the pyramid and of the mask decoder start from the first. Those of
# the second are as good as zero, so that their layer has no effect yet.
FAN_AVG = _fan_avg(1.0)
NEARLY_ZERO = _fan_avg(1e-10)


def num_groups(channels: int) -> int:
  """How many groups a group norm has: a divisor of the channels."""
  groups = min(channels // _LEAST_CHANNELS_OF_A_GROUP, _MOST_GROUPS)
  groups = max(groups, 1)
  while channels % groups:
    groups -= 1
  return groups


class GroupNorm(nn.Module):
  """Normalises groups of channels over all places of an example.

  Attributes:
    groups: how many; None: as `num_groups` says.
    starts_at_zero: whether the scale starts at 0 and not at 1.
    dtype: of the result.
  """
  groups: int | None = None
  starts_at_zero: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Map) -> Map:
    normalize = nn.GroupNorm(
        self.groups or num_groups(x.shape[-1]),
        epsilon=_EPSILON,
        use_bias=False,
        use_scale=False,
        # The mean of squares less the square of the mean loses digits.
        use_fast_variance=False,
        dtype=jnp.float32)
    x = _scale_and_shift(self, normalize(x), self.starts_at_zero)
    return x.astype(self.dtype)


class FrozenBatchNorm(nn.Module):
  """A batch norm that has learned its statistics in an earlier training.

  It does not look at the batch. Its statistics have no gradient.

  Attributes:
    starts_at_zero: as in `GroupNorm`.
    dtype: of the result.
  """
  starts_at_zero: bool = False
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x: Map) -> Map:
    shape_C = x.shape[-1:]
    mean_C = self.param("moving_mean", nn.initializers.zeros, shape_C)
    variance_C = self.param("moving_variance", nn.initializers.ones, shape_C)
    mean_C = jax.lax.stop_gradient(mean_C)
    variance_C = jax.lax.stop_gradient(variance_C)
    inverse_C = jax.lax.rsqrt(variance_C + _EPSILON)
    x = x.astype(jnp.float32) - mean_C[None, None, None]
    x = x * inverse_C[None, None, None]
    x = _scale_and_shift(self, x, self.starts_at_zero)
    return x.astype(self.dtype)


class LayerNorm(nn.Module):
  """Normalises the numbers of each token.

  Attributes:
    dtype: of the result.
  """
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x_BND: Tokens) -> Tokens:
    normalize = nn.LayerNorm(
        epsilon=LAYER_NORM_EPSILON,
        use_bias=False,
        use_scale=False,
        use_fast_variance=False,
        dtype=jnp.float32)
    x_BND = _scale_and_shift(self, normalize(x_BND), starts_at_zero=False)
    return x_BND.astype(self.dtype)


def _scale_and_shift(module, x, starts_at_zero):
  """x · gamma + beta: two parameters of the module, with a number a channel."""
  shape_C = x.shape[-1:]
  gamma_init = nn.initializers.ones
  if starts_at_zero:
    gamma_init = nn.initializers.zeros
  gamma_C = module.param("gamma", gamma_init, shape_C)
  beta_C = module.param("beta", nn.initializers.zeros, shape_C)
  leading_axes = tuple(range(x.ndim - 1))
  gamma = jnp.expand_dims(gamma_C, leading_axes)
  beta = jnp.expand_dims(beta_C, leading_axes)
  return x * gamma + beta


class Attention(nn.Module):
  """Attention with its four projections, and the norm before it.

  Attributes:
    num_heads: divides the width of the queries.
    with_norm: whether a layer norm of the queries' tokens comes first.
    dtype: of the matrix products.
    attention: implementation, see `attention.attention`.
  """
  num_heads: int
  with_norm: bool = False
  dtype: str = "float32"
  attention: str = "chunked"

  @nn.compact
  def __call__(
      self,
      x_BTD: Float[Array, "B T D"],
      y_BSE: Float[Array, "B S E"] | None = None,
  ) -> Float[Array, "B T D"]:
    """Attends from `x_BTD` to `y_BSE`, or to itself when that is None.

    The norm is that of `x_BTD` alone.
    """
    if self.with_norm:
      x_BTD = LayerNorm(self.dtype, name="ln")(x_BTD)
    if y_BSE is None:
      y_BSE = x_BTD
    width = x_BTD.shape[-1]
    head_size = width // self.num_heads
    make_projection = functools.partial(
        nn.DenseGeneral,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=dense.dot_general)
    to_heads = functools.partial(make_projection, (self.num_heads, head_size))
    attended = attention.attention(
        to_heads(name="query")(x_BTD),
        to_heads(name="key")(y_BSE),
        to_heads(name="value")(y_BSE),
        implementation=self.attention)
    project_out = make_projection(
        width, axis=(-2, -1), name="attention_output")
    return project_out(attended)


class Mlp(nn.Module):
  """A norm, then two dense layers with the exact GELU between them.

  Attributes:
    mlp_dim: F.
    dtype: of the matrix products.
    dropout: share of the F numbers that training drops behind the GELU.
  """
  mlp_dim: int
  dtype: str = "float32"
  dropout: float = 0.0

  @nn.compact
  def __call__(
      self,
      x_BND: Tokens,
      rngs_B: PRNGKey | None = None,
  ) -> Tokens:
    """What the block adds to `x_BND`.

    Args:
      x_BND: tokens.
      rngs_B: a key for each example, for dropout; None: nothing is dropped.
    """
    run = _FeedForward(self.mlp_dim, self.dtype, self.dropout, name="ffn")
    return run(x_BND, rngs_B)


# A module of its own for its place in the names: mlp/ffn/dense1/kernel.
class _FeedForward(nn.Module):
  mlp_dim: int
  dtype: str
  dropout: float

  @nn.compact
  def __call__(self, x_BND, rngs_B):
    width = x_BND.shape[-1]
    make_dense = functools.partial(
        nn.Dense,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=dense.dot_general)
    x_BND = LayerNorm(self.dtype, name="ln")(x_BND)
    x_BNF = make_dense(self.mlp_dim, name="dense1")(x_BND)
    # The backward pass computes it again, as in `transformer.MlpBlock`.
    gelu = jax.checkpoint(GELUS["erf"])
    x_BNF = dropout.drop_numbers(gelu(x_BNF), self.dropout, rngs_B)
    return make_dense(width, name="dense2")(x_BNF)
