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

import flax.linen as nn
import jax
import jax.numpy as jnp

from uvim.typing import Array, Bool, Float

# Stated although it is flax's default too: checkpoints depend on it.
LAYER_NORM_EPSILON = 1e-6


def dot_product_attention(
    q_BTAH: Float[Array, "B T A H"],
    k_BSAH: Float[Array, "B S A H"],
    v_BSAH: Float[Array, "B S A H"],
    mask: Bool[Array, "#B #A #T #S"] | None = None,
) -> Float[Array, "B T A H"]:
  """Softmax attention; scores and softmax in float32 whatever the inputs are.

  Args:
    q_BTAH: queries, not yet scaled.
    k_BSAH: keys.
    v_BSAH: values.
    mask: True where a query may look; each axis full size or 1. A row without
      any True gives the mean of all values.

  Returns:
    The attended values in the dtype of `v_BSAH`.
  """
  q_BTAH = q_BTAH * (q_BTAH.shape[-1] ** -0.5)
  scores_BATS = jnp.einsum("btah,bsah->bats", q_BTAH, k_BSAH,
                           preferred_element_type=jnp.float32)
  if mask is not None:
    scores_BATS = jnp.where(mask, scores_BATS, jnp.finfo(jnp.float32).min)
  weights_BATS = jax.nn.softmax(scores_BATS, axis=-1).astype(v_BSAH.dtype)
  return jnp.einsum("bats,bsah->btah", weights_BATS, v_BSAH)


class MultiHeadDotProductAttention(nn.Module):
  """Attention with its four projections.

  Attributes:
    num_heads: A; must divide the width of the input.
    use_bias: whether the projections have biases (the LM's decoder has none).
    dtype: of the matmuls.
  """
  num_heads: int
  use_bias: bool = True
  dtype: str = "float32"

  @nn.compact
  def __call__(
      self,
      x_BTD: Float[Array, "B T D"],
      y_BSD: Float[Array, "B S D"] | None = None,
      mask: Bool[Array, "#B #A #T #S"] | None = None,
  ) -> Float[Array, "B T D"]:
    """Attends from `x_BTD` to `y_BSD`, or to itself when that is None."""
    width = x_BTD.shape[-1]
    y_BSD = x_BTD if y_BSD is None else y_BSD

    def project(name, z_BTD):
      return nn.DenseGeneral(
          (self.num_heads, width // self.num_heads), use_bias=self.use_bias,
          dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform(),
          name=name)(z_BTD)

    attended_BTAH = dot_product_attention(
        project("query", x_BTD), project("key", y_BSD),
        project("value", y_BSD), mask)
    return nn.DenseGeneral(
        width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        name="out")(attended_BTAH)


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
    inits = dict(kernel_init=nn.initializers.xavier_uniform(),
                 bias_init=nn.initializers.normal(1e-6))
    x_BNF = nn.Dense(self.mlp_dim, dtype=self.dtype, **inits)(x_BND)
    # The released models were trained with the tanh form.
    x_BNF = nn.gelu(x_BNF, approximate=True)
    return nn.Dense(x_BND.shape[-1], dtype=self.dtype, **inits)(x_BNF)


class EncoderBlock(nn.Module):
  """x + attention(norm(x)), then x + MLP(norm(x)).

  Attributes:
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
  """
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    norm = dict(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype)
    x_BND = x_BND + MultiHeadDotProductAttention(
        self.num_heads, dtype=self.dtype)(nn.LayerNorm(**norm)(x_BND))
    return x_BND + MlpBlock(
        self.mlp_dim, dtype=self.dtype)(nn.LayerNorm(**norm)(x_BND))


class Encoder(nn.Module):
  """`depth` encoder blocks and a final layer norm.

  Attributes:
    depth: number of blocks.
    mlp_dim: F.
    num_heads: A.
    dtype: of the matmuls.
  """
  depth: int
  mlp_dim: int
  num_heads: int
  dtype: str = "float32"

  @nn.compact
  def __call__(self, x_BND: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
    for i in range(self.depth):
      x_BND = EncoderBlock(
          mlp_dim=self.mlp_dim, num_heads=self.num_heads, dtype=self.dtype,
          name=f"encoderblock_{i}")(x_BND)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype,
                        name="encoder_norm")(x_BND)
