"""Attention, MLP and the pre-norm encoder that both stages share.

B batch · T query tokens · S key tokens · N tokens of a grid · D model width
F MLP width · A heads · H head size

Module and parameter names are those of the published checkpoints
(`encoderblock_0/MultiHeadDotProductAttention_0/query/kernel`, ...), so a
released `.npz` loads without a table of renames. Parameters are always
float32. `dtype` is the type of the matmuls. Softmax and the statistics of
layer norms stay in float32.

Source: ViT-B/16 as used by the paper for both f and the oracle (section 2.3,
"Experimental setup for stage I"; Appendix D for the sizes).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from uvim import fields
from uvim.nn import attention, dense
from uvim.typing import Array, Float

# Also flax's default. Stated here because checkpoints depend on it.
LAYER_NORM_EPSILON = 1e-6

REMAT = ("none", "block")

# ── Config fields that say how blocks are computed ──────────────────────────
#
# A config class declares all four. They change no parameter.


def dtype_field(doc: str) -> Any:
  """`dtype`: the type of the numbers in matrix products."""
  check = fields.one_of(("float32", "bfloat16"))
  return fields.field("float32", doc=doc, check=check)


def attention_field(doc: str) -> Any:
  """`attention`: its implementation, see `attention.attention`."""
  check = fields.one_of(attention.IMPLEMENTATIONS)
  return fields.field("chunked", doc=doc, check=check)


def scan_layers_field(doc: str) -> Any:
  """`scan_layers`: see `run_blocks`."""
  return fields.field(False, doc=doc, check=fields.BOOL)


def remat_field(doc: str) -> Any:
  """`remat`: see `run_blocks`."""
  return fields.field("none", doc=doc, check=fields.one_of(REMAT))


# ── Blocks ──────────────────────────────────────────────────────────────────


def run_blocks(
    stack: nn.Module,
    make_block: Callable[..., nn.Module],
    names: Sequence[str],
    x: Array,
    *context: Array,
) -> Array:
  """`x` through one block per name, each called as block(x, *context).

  The parameters of the blocks lie side by side under their published names,
  whatever the options are. A scan stacks them inside the call.

  Args:
    stack: the module that owns the blocks, in its compact call. Its fields
      `scan_layers` and `remat` say how they run.
    make_block: constructor of a block, takes `name` and `parent`.
    names: of the blocks.
    x: input of the first block; every block keeps its shape and dtype.
    *context: arrays that every block sees.
  """
  # The plain loop also makes the parameters. So they get their published names,
  # whatever the options are.
  is_plain = not stack.scan_layers and stack.remat == "none"
  if is_plain or stack.is_initializing():
    for name in names:
      x = make_block(name=name)(x, *context)
    return x

  # One unbound block runs for all layers, with the parameters of each in turn.
  block = make_block(parent=None)
  layers = [stack.variables["params"][name] for name in names]

  def run_block(x, params):
    return block.apply({"params": params}, x, *context), None

  if stack.remat == "block":
    run_block = _recompute_backwards(run_block, in_scan=stack.scan_layers)
  if stack.scan_layers:
    # The scan runs along a new first axis, one entry for each layer.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    x, _ = lax.scan(run_block, x, stacked)
  else:
    for params in layers:
      x, _ = run_block(x, params)
  return x


def _recompute_backwards(run_block, in_scan):
  """`run_block` with a backward pass that keeps little and repeats the rest.

  The backward pass keeps the attended values. They are small compared with the
  values inside the MLP, and with many tokens they are the most expensive to
  compute again.
  """
  # Outside of a scan XLA could merge the repeated computation with the first
  # one and so keep its values after all. Inside a scan it cannot.
  return jax.checkpoint(
      run_block, prevent_cse=not in_scan, policy=attention.is_kept
  )


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
    if y_BSD is None:
      y_BSD = x_BTD
    width = x_BTD.shape[-1]
    head_size = width // self.num_heads
    make_projection = functools.partial(
        nn.DenseGeneral,
        use_bias=self.use_bias,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        dot_general=dense.dot_general,
    )
    # Kernels have the published shapes: [D, A, H] into the heads and [A, H, D]
    # out of them.
    to_heads = functools.partial(make_projection, (self.num_heads, head_size))
    attended_BTAH = attention.attention(
        to_heads(name="query")(x_BTD),
        to_heads(name="key")(y_BSD),
        to_heads(name="value")(y_BSD),
        causal=causal,
        implementation=self.attention,
    )
    project_out = make_projection(width, axis=(-2, -1), name="out")
    return project_out(attended_BTAH)


def _quick_gelu(x):
  return x * jax.nn.sigmoid(1.702 * x)


# The released models were trained with the tanh form, most other pretrained
# ViTs with the exact one ("erf"), and OpenAI's CLIP with the quick one.
GELUS = {
    "tanh": functools.partial(nn.gelu, approximate=True),
    "erf": functools.partial(nn.gelu, approximate=False),
    "quick": _quick_gelu,
}


class MlpBlock(nn.Module):
  """Two dense layers with a GELU between them.

  Attributes:
    mlp_dim: F.
    dtype: of the matmuls.
    gelu: a key of GELUS.
  """
  mlp_dim: int
  dtype: str = "float32"
  gelu: str = "tanh"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    width = x_BND.shape[-1]
    make_dense = functools.partial(
        nn.Dense,
        dtype=self.dtype,
        dot_general=dense.dot_general,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.normal(1e-6),
    )
    x_BNF = make_dense(self.mlp_dim)(x_BND)
    # The backward pass computes it again: autodiff would keep several arrays
    # of it as wide as the MLP, and writing and reading those takes longer (5
    # to 8 % of stage II's step on a CPU).
    gelu = jax.checkpoint(GELUS[self.gelu])
    x_BNF = gelu(x_BNF)
    return make_dense(width)(x_BNF)


class EncoderBlock(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
    gelu: a key of GELUS.
    norm_epsilon: of the layer norms.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"
  gelu: str = "tanh"
  norm_epsilon: float = LAYER_NORM_EPSILON

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    # Do not reorder. Flax numbers the modules of a class in the order in which
    # they are made (LayerNorm_0, LayerNorm_1). Checkpoints have these names.
    make_norm = functools.partial(
        nn.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype
    )
    attend = MultiHeadDotProductAttention(
        self.num_heads, dtype=self.dtype, attention=self.attention
    )
    mlp = MlpBlock(self.mlp_dim, dtype=self.dtype, gelu=self.gelu)
    x_BND = x_BND + attend(make_norm()(x_BND))
    return x_BND + mlp(make_norm()(x_BND))


class Encoder(nn.Module):
  """`depth` encoder blocks and a final layer norm.

  Attributes:
    depth: number of blocks.
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
    attention: implementation, see `attention.attention`.
    scan_layers: whether the blocks run as a scan, so that XLA compiles only
      one of them.
    remat: "block" keeps of each block its input and its attended values for
      the backward pass and computes the rest again; "none" keeps all.
    gelu: a key of GELUS.
    norm_epsilon: of the layer norms.
  """
  depth: int
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"
  gelu: str = "tanh"
  norm_epsilon: float = LAYER_NORM_EPSILON

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    make_block = functools.partial(
        EncoderBlock,
        mlp_dim=self.mlp_dim,
        num_heads=self.num_heads,
        dtype=self.dtype,
        attention=self.attention,
        gelu=self.gelu,
        norm_epsilon=self.norm_epsilon,
    )
    names = [f"encoderblock_{i}" for i in range(self.depth)]
    x_BND = run_blocks(self, make_block, names, x_BND)
    norm = nn.LayerNorm(
        epsilon=self.norm_epsilon, dtype=self.dtype, name="encoder_norm"
    )
    return norm(x_BND)
