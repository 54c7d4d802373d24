"""Attention, MLP and the pre-norm encoder that both stages share.

B batch · T query tokens · S key tokens · N tokens of a grid · D model width
F MLP width · A heads · H head size

Module and parameter names are those of the published checkpoints
(`encoderblock_0/MultiHeadDotProductAttention_0/query/kernel`, ...), so a
released `.npz` loads without a table of renames. Parameters are always
float32; `dtype` is the type of the matmuls. Softmax and layer norm statistics
stay in float32.

Source: ViT-B/16 as used by the paper for both f and the oracle (section 2.3,
"Experimental setup for stage I"; Appendix D for the sizes).
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from uvim.nn import attention, dense
from uvim.typing import Array, Float

# Stated although it is flax's default too: checkpoints depend on it.
LAYER_NORM_EPSILON = 1e-6

REMAT = ("none", "block")


def run_blocks(
    stack: nn.Module,
    make_block: Callable[..., nn.Module],
    names: Sequence[str],
    x: Array,
    *context: Array,
) -> Array:
  """`x` through one block per name, each called as block(x, *context).

  The parameters of the blocks lie side by side under their published names
  whatever the options are; a scan stacks them inside the call.

  Args:
    stack: the module that owns the blocks, in its compact call. Its fields
      `scan_layers` and `remat` say how they run.
    make_block: constructor of a block, takes `name` and `parent`.
    names: of the blocks.
    x: input of the first one; every block keeps its shape and dtype.
    *context: what all of them see.
  """
  plain = not stack.scan_layers and stack.remat == "none"
  if plain or stack.is_initializing():
    for name in names:
      x = make_block(name=name)(x, *context)
    return x
  block = make_block(parent=None)
  layers = [stack.variables["params"][name] for name in names]

  def call(x, params):
    return block.apply({"params": params}, x, *context), None

  if stack.remat == "block":
    # Attended values are small beside what the MLP keeps, and at many tokens
    # they cost the most to compute again. Inside a scan nothing can merge the
    # two computations, so XLA need not be kept from it.
    call = jax.checkpoint(
        call, prevent_cse=not stack.scan_layers,
        policy=jax.checkpoint_policies.save_only_these_names(*attention.SAVED))
  if stack.scan_layers:
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *layers)
    return lax.scan(call, x, stacked)[0]
  for params in layers:
    x, _ = call(x, params)
  return x


class MultiHeadDotProductAttention(nn.Module):
  """Attention with its four projections.

  Attributes:
    num_heads: A; must divide the width of the input.
    use_bias: whether the projections have biases (the LM's decoder has none).
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
  """
  num_heads: int
  use_bias: bool = True
  dtype: str = "float32"
  attention: str = "chunked"

  @nn.compact
  def __call__(
      self,
      x_BTD: Float[Array, "B T D"],
      y_BSD: Float[Array, "B S D"] | None = None,
      *,
      causal: bool = False,
  ) -> Float[Array, "B T D"]:
    """Attends from `x_BTD` to `y_BSD`, or to itself when that is None."""
    width = x_BTD.shape[-1]
    y_BSD = x_BTD if y_BSD is None else y_BSD

    def project(name, z_BTD):
      return nn.DenseGeneral(
          (self.num_heads, width // self.num_heads), use_bias=self.use_bias,
          dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(),
          dot_general=dense.dot_general, name=name)(z_BTD)

    attended_BTAH = attention.attention(
        project("query", x_BTD), project("key", y_BSD),
        project("value", y_BSD), causal=causal, implementation=self.attention)
    return nn.DenseGeneral(
        width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=dense.dot_general, name="out")(attended_BTAH)


# The released models were trained with the tanh form. Backwards it is computed
# again: what autodiff keeps of it is several arrays as wide as the MLP, and to
# write and read those takes longer (5 to 8 % of stage II's step on a CPU).
_gelu = jax.checkpoint(functools.partial(nn.gelu, approximate=True))


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them.

  Attributes:
    mlp_dim: F.
    dtype: of the matmuls.
  """
  mlp_dim: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    make = functools.partial(
        nn.Dense, dtype=self.dtype, dot_general=dense.dot_general,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.normal(1e-6))
    x_BNF = make(self.mlp_dim)(x_BND)
    return make(x_BND.shape[-1])(_gelu(x_BNF))


class EncoderBlock(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    norm = dict(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype)
    attend = MultiHeadDotProductAttention(
        self.num_heads, dtype=self.dtype, attention=self.attention)
    x_BND = x_BND + attend(nn.LayerNorm(**norm)(x_BND))
    return x_BND + MlpBlock(
        self.mlp_dim, dtype=self.dtype)(nn.LayerNorm(**norm)(x_BND))


class Encoder(nn.Module):
  """`depth` encoder blocks and a final layer norm.

  Attributes:
    depth: number of blocks.
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
    scan_layers: whether the blocks run as a scan: one of them is compiled.
    remat: "block" keeps of each block its input and its attended values for
      the backward pass and computes the rest again; "none" keeps all.
  """
  depth: int
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    make_block = functools.partial(
        EncoderBlock, mlp_dim=self.mlp_dim, num_heads=self.num_heads,
        dtype=self.dtype, attention=self.attention)
    names = [f"encoderblock_{i}" for i in range(self.depth)]
    x_BND = run_blocks(self, make_block, names, x_BND)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype,
                        name="encoder_norm")(x_BND)
