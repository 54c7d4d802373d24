"""The plain ViT, with what pretrained families add to it.

B batch · N patches · R prefix tokens · D width

Names and shapes of parameters are those of the encoder in the released stage II
checkpoints. A pretrained ViT may add `encoder_prefix` (class token and
registers, with their positions) and `encoder_pre_norm`.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words"; Darcet et al.,
"Vision Transformers Need Registers".
"""

import flax.linen as nn
import jax.numpy as jnp

from uvim.nn import embedding, positions, transformer
from uvim.nn.backbones.base import Backbone
from uvim.typing import Array, Float, Image, Tokens


class ViT(Backbone):
  """Patches, positions, blocks, a final norm."""

  def setup(self):
    style = self.style
    make_posemb = positions.POSEMBS[self.posemb_type]
    self.posemb = make_posemb(
        self, "pos_embedding_encoder", self.grid_size, self.width)
    self.embed = self._make_embedding()
    if style.num_prefix:
      self.prefix = self.param(
          "encoder_prefix",
          nn.initializers.normal(0.02),
          (1, style.num_prefix, self.width))
    if style.pre_norm:
      self.pre_norm = nn.LayerNorm(
          epsilon=style.norm_epsilon,
          dtype=self.dtype,
          name="encoder_pre_norm")
    self.blocks = transformer.Encoder(
        self.depth,
        self.mlp_dim,
        self.num_heads,
        dtype=self.dtype,
        attention=self.attention,
        scan_layers=self.scan_layers,
        remat=self.remat,
        gelu=style.gelu,
        norm_epsilon=style.norm_epsilon,
        name="encoder")

  def _make_embedding(self) -> nn.Module:
    """The module that turns an image into tokens without positions."""
    return embedding.PatchEmbedding(
        self.patch_size, self.width, self.dtype, name="EmbedPatches")

  def __call__(self, image: Image) -> Tokens:
    x_BND = self.with_prefix(image)
    return x_BND[:, self.style.num_prefix:]

  def with_prefix(self, image: Image) -> Float[Array, "B R+N D"]:
    """All tokens: class token and registers first."""
    return self.encode(self.embed(image) + self.posemb)

  def encode(self, x_BND: Tokens) -> Float[Array, "B R+N D"]:
    """The blocks, on any tokens that have their positions already."""
    if self.style.num_prefix:
      shape_BRD = (len(x_BND), *self.prefix.shape[1:])
      prefix_BRD = jnp.broadcast_to(self.prefix, shape_BRD)
      x_BND = jnp.concatenate([prefix_BRD, x_BND], axis=1)
    x_BND = x_BND.astype(self.dtype)
    if self.style.pre_norm:
      x_BND = self.pre_norm(x_BND)
    return self.blocks(x_BND)
