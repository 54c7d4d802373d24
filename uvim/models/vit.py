"""Stage I: the restricted oracle Omega and the base model f, one linen module.

B batch · N tokens of the patch grid · P pixels in a patch · K classes, bins or
channels of one output · C channels · D model width · L code length
E codeword size · Q dictionary size

The oracle reads the label (and the image) and says L vectors of size E; the
quantizer, outside of this module, turns them into words of the dictionary; f
reads only those words and the image. Names and shapes of parameters are those
of the published checkpoints.

Source: paper sections 2.2 and 2.3, Appendix D for the fields.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from uvim import registry
from uvim.codes import vq as quantizer
from uvim.codes.vq import Codebook
from uvim.nn import attention, embedding, heads, losses, transformer
from uvim.nn.embedding import Label
from uvim.typing import Array, Float, Int, PRNGKey, PyTree

Logits = dict[str, Float[Array, "B N K P"]]


class ViT(nn.Module):
  """Oracle (`encode`) and base model (`decode`).

  Attributes:
    input_size: height and width in pixels of the labels and of the image that
      both parts see.
    patch_size: height and width in pixels of a patch.
    code_len: L; a square number under `bottleneck_resize`.
    width: D.
    oracle_depth: encoder blocks; 0 = no oracle, `encode` says only zeros.
    base_model_depth: decoder blocks.
    mlp_dim: hidden size of the MLPs.
    num_heads: attention heads.
    dict_size: Q.
    codeword_dim: E.
    inputs: label name -> (K, P).
    outputs: output name -> (K, P).
    dict_momentum: discount of the dictionary's statistics per step.
    with_encoder_ctx: whether the oracle sees the image.
    with_decoder_ctx: whether f sees the image.
    code_dropout: "random", "ordered" or "none"; applied by the train loop.
    bottleneck_resize: grid <-> code by linear resize; else by learned maps.
    commitment_weight: of the commitment loss; 0 in the released models.
    dict_learning: whether the train loop updates the dictionary.
    dict_splitting: whether it also splits unused entries while it learns.
    head_zeroinit: start from uniform predictions.
    dtype: of the matmuls; parameters and reductions stay float32.
    attention, scan_layers, remat: as in `transformer.Encoder`, for both.
  """
  input_size: tuple[int, int]
  patch_size: tuple[int, int]
  code_len: int
  width: int
  oracle_depth: int
  base_model_depth: int
  mlp_dim: int
  num_heads: int
  dict_size: int
  codeword_dim: int
  inputs: Mapping[str, tuple[int, int]]
  outputs: Mapping[str, tuple[int, int]]
  dict_momentum: float = 0.995
  with_encoder_ctx: bool = True
  with_decoder_ctx: bool = True
  code_dropout: str = "random"
  bottleneck_resize: bool = True
  commitment_weight: float = 0.0
  dict_learning: bool = True
  dict_splitting: bool = True
  head_zeroinit: bool = True
  dtype: str = "float32"
  attention: str = "chunked"
  scan_layers: bool = False
  remat: str = "none"

  def __post_init__(self):
    # A model is a static argument of `init_params`, so it must hash.
    for name in ("inputs", "outputs"):
      object.__setattr__(self, name, FrozenDict(
          {key: tuple(v) for key, v in getattr(self, name).items()}))
    super().__post_init__()

  @property
  def grid_size(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return (self.input_size[0] // self.patch_size[0],
            self.input_size[1] // self.patch_size[1])

  def setup(self):
    if self.oracle_depth:
      self._setup_oracle()
    self._setup_base_model()

  def _setup_oracle(self):
    self.embeddings = {
        key: embedding.LabelEmbedding(
            shape, self.width, dtype=self.dtype, name=f"embedding_{key}")
        for key, shape in self.inputs.items()}
    if self.with_encoder_ctx:
      self.ctx_enc_embedding = self._patch_embedding()
    self.pos_embedding_encoder = self._pos_embedding("pos_embedding_encoder")
    self.encoder = self._transformer(self.oracle_depth)
    if not self.bottleneck_resize:
      self.bottleneck_downsample = self.param(
          "bottleneck_downsample", nn.initializers.xavier_uniform(),
          (math.prod(self.grid_size), self.code_len))
    # float32: what decides between two codewords is not rounded.
    self.encoder_head = nn.Dense(self.codeword_dim)

  def _setup_base_model(self):
    self.decoder_stem = nn.Dense(self.width, dtype=self.dtype)
    if not self.bottleneck_resize:
      self.bottleneck_upsample = self.param(
          "bottleneck_upsample", nn.initializers.xavier_uniform(),
          (self.code_len, math.prod(self.grid_size)))
    if self.with_decoder_ctx:
      self.ctx_dec_embedding = self._patch_embedding()
    self.pos_embedding_decoder = self._pos_embedding("pos_embedding_decoder")
    self.decoder = self._transformer(self.base_model_depth)
    self.heads = {
        key: _head(self, key, name=f"head_{key}") for key in self.outputs}

  def _patch_embedding(self):
    return embedding.PatchEmbedding(self.patch_size, self.width,
                                    dtype=self.dtype)

  def _pos_embedding(self, name):
    return self.param(name, nn.initializers.normal(self.width ** -0.5),
                      (1, math.prod(self.grid_size), self.width))

  def _transformer(self, depth):
    return transformer.Encoder(
        depth=depth, mlp_dim=self.mlp_dim, num_heads=self.num_heads,
        dtype=self.dtype, attention=self.attention,
        scan_layers=self.scan_layers, remat=self.remat)

  def __call__(self, x: Mapping[str, Label] | None,
               ctx: Float[Array, "B H W 3"] | None) -> Logits:
    """Both parts without the quantizer between them: creates all parameters."""
    return self.decode(self.encode(x, ctx), ctx)

  def encode(self, x: Mapping[str, Label],
             ctx: Float[Array, "B H W 3"] | None) -> Float[Array, "B L E"]:
    """The oracle up to the quantizer.

    Args:
      x: per key of `inputs` the label in patches: integer ids, where an id
        outside 0..K-1 embeds to zero, or float channels.
      ctx: the image at label size in [-1, 1]; unused without
        `with_encoder_ctx`.

    Returns:
      float32 vectors of mean 0 and variance 1 over E each.
    """
    if not self.oracle_depth:
      batch = len(next(iter(x.values())) if x else ctx)
      return jnp.zeros((batch, self.code_len, self.codeword_dim))
    x_BND = sum(embed(x[key]) for key, embed in self.embeddings.items())
    if self.with_encoder_ctx:
      x_BND = x_BND + self.ctx_enc_embedding(ctx)
    x_BND = self.encoder(x_BND + self.pos_embedding_encoder.astype(self.dtype))
    x_BLD = self._to_code_len(x_BND)
    x_BLE = self.encoder_head(x_BLD.astype(jnp.float32))
    return jax.nn.standardize(x_BLE, axis=-1)

  def decode(self, z_BLE: Float[Array, "B L E"],
             ctx: Float[Array, "B H W 3"] | None) -> Logits:
    """The base model f.

    Args:
      z_BLE: code vectors: codewords, zeros where a word was dropped.
      ctx: the image at label size in [-1, 1]; unused without
        `with_decoder_ctx`.

    Returns:
      Per key of `outputs` the logits, in `dtype`.
    """
    x_BND = self.decode_tokens(z_BLE, ctx)
    return {key: head(x_BND) for key, head in self.heads.items()}

  def decode_tokens(self, z_BLE: Float[Array, "B L E"],
                    ctx: Float[Array, "B H W 3"] | None
                    ) -> Float[Array, "B N D"]:
    """`decode` without the heads."""
    x_BND = self._to_grid(self.decoder_stem(z_BLE))
    if self.with_decoder_ctx:
      x_BND = x_BND + self.ctx_dec_embedding(ctx)
    return self.decoder(x_BND + self.pos_embedding_decoder.astype(self.dtype))

  def _to_code_len(self, x_BND):
    if self.bottleneck_resize:
      side = math.isqrt(self.code_len)
      return resize_grid(x_BND, self.grid_size, (side, side))
    return jnp.einsum("bnd,nl->bld", x_BND,
                      self.bottleneck_downsample.astype(self.dtype))

  def _to_grid(self, x_BLD):
    if self.bottleneck_resize:
      side = math.isqrt(self.code_len)
      return resize_grid(x_BLD, (side, side), self.grid_size)
    return jnp.einsum("bld,ln->bnd", x_BLD,
                      self.bottleneck_upsample.astype(self.dtype))


def _head(model, key, name=None):
  """The linear map from a token to the logits of one output."""
  kernel_init = (nn.initializers.zeros if model.head_zeroinit
                 else nn.initializers.lecun_normal())
  return nn.DenseGeneral(model.outputs[key], dtype=model.dtype,
                         kernel_init=kernel_init, name=name)


def resize_grid(x_BND, old_size, new_size):
  """Linear resize of a row-major grid of tokens, antialiased downwards."""
  if old_size == new_size:
    return x_BND
  batch, _, width = x_BND.shape
  x_BHWD = jax.image.resize(
      x_BND.reshape(batch, *old_size, width), (batch, *new_size, width),
      method="linear")
  return x_BHWD.reshape(batch, -1, width)


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=0)
def init_params(model: ViT, rng: PRNGKey) -> PyTree:
  """The parameters (float32) of a new model."""
  tokens = math.prod(model.grid_size)
  x = {key: jnp.zeros((1, tokens, shape[1]), jnp.int32)
       for key, shape in model.inputs.items()}
  ctx = jnp.zeros((1, *model.input_size, 3))
  return model.init(rng, x, ctx)["params"]


def encode_vectors(model: ViT, params: PyTree, x: Mapping[str, Label],
                   ctx: Any) -> Float[Array, "B L E"]:
  """`ViT.encode` as a function of the parameters."""
  return model.apply({"params": params}, x, ctx, method="encode")


def decode_vectors(model: ViT, params: PyTree, z_BLE: Float[Array, "B L E"],
                   ctx: Any) -> Logits:
  """`ViT.decode` as a function of the parameters; zeros in z = no word."""
  return model.apply({"params": params}, z_BLE, ctx, method="decode")


def decode_loss(
    model: ViT, params: PyTree, z_BLE: Float[Array, "B L E"], ctx: Any,
    x: Mapping[str, Label], loss_fn: Callable,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """The loss of f, averaged over the batch; for training.

  Never more than the logits of a few pixels of each patch exist: of one
  512x512 image all of them are 245 MB, and their gradient as much again.

  Args:
    model: the model.
    params: its parameters.
    z_BLE: code vectors.
    ctx: the image.
    x: what to predict, per key of `outputs`.
    loss_fn: (logits, x) → (loss [B], logs of [B]), each a mean over the
      pixels of a patch: a task's `loss`.

  Returns:
    The mean loss and the means of the logs, which have no gradient.
  """
  x_BND = model.apply({"params": params}, z_BLE, ctx, method="decode_tokens")
  return losses.mean_by_chunks(
      *_head_loss(model, loss_fn, x_BND), _head_params(model, params), x_BND, x)


def decode_loss_of_each(
    model: ViT, params: PyTree, z_BLE: Float[Array, "B L E"], ctx: Any,
    x: Mapping[str, Label], loss_fn: Callable,
) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]]]:
  """As `decode_loss`, but of each example; for evaluation."""
  x_BND = model.apply({"params": params}, z_BLE, ctx, method="decode_tokens")
  return losses.of_each_by_chunks(
      *_head_loss(model, loss_fn, x_BND), _head_params(model, params), x_BND, x)


def _head_params(model, params):
  return {key: params[f"head_{key}"] for key in model.outputs}


def _head_loss(model, loss_fn, x_BND):
  """(parameters of the heads, tokens, labels) → loss [B], logs of [B], for any
  number of pixels; and for how many at a time."""
  def loss(params, x_BND, x):
    return loss_fn({key: heads.logits(params[key], x_BND)
                    for key in model.outputs}, x)

  num_tokens = x_BND.shape[0] * x_BND.shape[1]
  return loss, losses.chunk_size(num_tokens, model.outputs)


def oracle_code(model: ViT, params: PyTree, codebook: Codebook,
                x: Mapping[str, Label], ctx: Any) -> Int[Array, "B L"]:
  """The oracle's guiding code for a label, without dropout; int32 in 0..Q-1."""
  if not model.oracle_depth:
    raise registry.ConfigError(
        "model.oracle_depth is 0: such a model has no oracle and no code.")
  return quantizer.lookup(codebook, encode_vectors(model, params, x, ctx))


def decode_code(model: ViT, params: PyTree, codebook: Codebook,
                code_BL: Int[Array, "B L"], ctx: Any) -> Logits:
  """Logits of f for a guiding code."""
  z_BLE = quantizer.embed_code(codebook, code_BL)
  return decode_vectors(model, params, z_BLE, ctx)


def check_vit(**fields: Any) -> None:
  """Checks the fields of a `ViT` before anything is compiled.

  Args:
    **fields: the constructor's fields; all that have no default are there.

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(ViT)}
  fields = {**defaults, **fields}
  _check_numbers(fields)
  _check_grid(fields)
  for group in ("inputs", "outputs"):
    _check_labels(group, fields)


def _require(condition, name, value, allowed):
  if not condition:
    raise registry.ConfigError(
        f"model.{name} is {value!r}; it must be {allowed}.")


def _is_int(value):
  return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_numbers(fields):
  for name in ("code_len", "width", "base_model_depth", "mlp_dim",
               "num_heads", "dict_size", "codeword_dim"):
    value = fields[name]
    _require(_is_int(value) and value > 0, name, value, "a positive integer")
  depth = fields["oracle_depth"]
  _require(_is_int(depth) and depth >= 0, "oracle_depth", depth,
           "a whole number (0 = no oracle)")
  _require(fields["width"] % fields["num_heads"] == 0, "num_heads",
           fields["num_heads"], f"a divisor of width {fields['width']}")
  momentum = fields["dict_momentum"]
  _require(0 <= momentum < 1, "dict_momentum", momentum, "in [0, 1)")
  weight = fields["commitment_weight"]
  _require(weight >= 0, "commitment_weight", weight, "0 or more")
  for name, allowed in (("code_dropout", quantizer.CODE_DROPOUT_MODES),
                        ("dtype", ("float32", "bfloat16")),
                        ("attention", tuple(attention.IMPLEMENTATIONS)),
                        ("remat", transformer.REMAT),
                        ("scan_layers", (False, True))):
    _require(fields[name] in allowed, name, fields[name],
             f"one of {', '.join(map(str, allowed))}")


def _check_grid(fields):
  for name in ("input_size", "patch_size"):
    size = tuple(fields[name])
    _require(len(size) == 2 and all(_is_int(s) and s > 0 for s in size),
             name, size,
             "two positive integers (height, width)")
  size, patch = tuple(fields["input_size"]), tuple(fields["patch_size"])
  _require(all(s % p == 0 for s, p in zip(size, patch, strict=True)),
           "patch_size", patch, f"a divisor of input_size {size}")
  length = fields["code_len"]
  _require(not fields["bottleneck_resize"] or math.isqrt(length)**2 == length,
           "code_len", length,
           "a square number (64, 256, ...), or bottleneck_resize False")


def _check_labels(group, fields):
  labels, patch = fields[group], tuple(fields["patch_size"])
  _require(len(labels) > 0, group, labels, "at least one name -> (K, P)")
  for key, shape in labels.items():
    _require(len(shape) == 2 and _is_int(shape[0]) and shape[0] > 0
             and shape[1] == math.prod(patch), f"{group}.{key}", tuple(shape),
             f"(classes, {math.prod(patch)}): pixels of a patch of {patch}")
