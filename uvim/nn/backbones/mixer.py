"""The all-MLP Mixer: one MLP mixes the tokens, another one their channels.

B batch · N patches · D width · F MLP width

It has no attention, so its cost grows with N and not with its square. The MLP
that mixes tokens has one input for each place. So it knows where a token
stands, and needs no position embedding. For the same reason a trained Mixer
fits one number of patches only.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision". In
all its sizes the MLP that mixes tokens has an eighth of the hidden units of the
MLP that mixes channels; so here.
"""

import functools

import flax.linen as nn

from uvim.nn import embedding, transformer
from uvim.nn.backbones.base import Backbone
from uvim.registry import ConfigError
from uvim.typing import Image, Tokens

# The MLP of channels has so many times the hidden units of the MLP of tokens.
_CHANNELS_TO_TOKENS = 8


class Mixer(Backbone):
  """Patches, blocks, a final norm.

  Of the fields it ignores `num_heads`, `attention` and `posemb_type`.
  """

  def check(self, where: str) -> None:
    if self.style.num_prefix or self.style.pre_norm:
      raise ConfigError(
          f"{where} and a family whose network has a class token, registers or "
          "a norm before the blocks; it allows one without, such as augreg.")
    if self.mlp_dim < _CHANNELS_TO_TOKENS:
      raise ConfigError(
          f"{where} and mlp_dim {self.mlp_dim}; it needs at least "
          f"{_CHANNELS_TO_TOKENS}.")

  def setup(self):
    self.embed = embedding.PatchEmbedding(
        self.patch_size, self.width, self.dtype, name="EmbedPatches")
    self.blocks = _Blocks(
        self.depth,
        self.mlp_dim,
        self.style.gelu,
        self.style.norm_epsilon,
        self.dtype,
        scan_layers=self.scan_layers,
        remat=self.remat,
        name="encoder")

  def __call__(self, image: Image) -> Tokens:
    return self.blocks(self.embed(image))


class _Blocks(nn.Module):
  """`depth` blocks and a final layer norm.

  Attributes:
    depth: number of blocks.
    mlp_dim: F of the MLP of channels.
    gelu, norm_epsilon, dtype, scan_layers, remat: as in `transformer.Encoder`.
  """
  depth: int
  mlp_dim: int
  gelu: str
  norm_epsilon: float
  dtype: str
  scan_layers: bool
  remat: str

  @nn.compact
  def __call__(self, x_BND: Tokens) -> Tokens:
    make_block = functools.partial(
        _Block,
        mlp_dim=self.mlp_dim,
        gelu=self.gelu,
        norm_epsilon=self.norm_epsilon,
        dtype=self.dtype)
    names = [f"encoderblock_{i}" for i in range(self.depth)]
    x_BND = transformer.run_blocks(self, make_block, names, x_BND)
    norm = nn.LayerNorm(
        epsilon=self.norm_epsilon, dtype=self.dtype, name="encoder_norm")
    return norm(x_BND)


class _Block(nn.Module):
  """x + MLP over the places(norm(x)), then x + MLP over the channels(norm(x)).

  Attributes:
    mlp_dim: F of the MLP of channels.
    gelu, norm_epsilon, dtype: as in `transformer.EncoderBlock`.
  """
  mlp_dim: int
  gelu: str
  norm_epsilon: float
  dtype: str

  @nn.compact
  def __call__(self, x_BND: Tokens) -> Tokens:
    make_norm = functools.partial(
        nn.LayerNorm, epsilon=self.norm_epsilon, dtype=self.dtype)
    make_mlp = functools.partial(
        transformer.MlpBlock, dtype=self.dtype, gelu=self.gelu)
    mix_tokens = make_mlp(
        self.mlp_dim // _CHANNELS_TO_TOKENS, name="token_mixing")
    mix_channels = make_mlp(self.mlp_dim, name="channel_mixing")
    normed_BDN = make_norm(name="token_norm")(x_BND).swapaxes(1, 2)
    x_BND = x_BND + mix_tokens(normed_BDN).swapaxes(1, 2)
    normed_BND = make_norm(name="channel_norm")(x_BND)
    return x_BND + mix_channels(normed_BND)
