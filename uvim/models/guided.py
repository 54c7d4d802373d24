"""Stage I: oracle, quantizer and base model together, as pure functions.

B batch · L code length · E numbers of a code vector · H W image pixels
N patches · D model width · K classes · P pixels of a patch

`arrays` is {"params": …, "state": …}, the layout of the published checkpoints:
the parameters of the network (of the quantizer below "quantizer", of the image
encoder below "image_encoder") and what else the quantizer needs, such as its
codebook.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uvim import fields as fields_lib
from uvim.codes import QUANTIZERS, dropout
from uvim.codes.base import CodeArrays, Coded, CodeSpec, Quantizer
from uvim.encoders import image_encoder as image_encoder_lib
from uvim.encoders.image_encoder import Context, ImageEncoder, Seen
from uvim.models import bottleneck as bottleneck_lib
from uvim.models import label_dropout as label_dropout_lib
from uvim.models import vit as vit_lib
from uvim.models.vit import Labels, Logits, ViT
from uvim.nn import heads, losses
from uvim.registry import ConfigError, lookup
from uvim.typing import (
  Array,
  CodeVectors,
  Dropped,
  PerExample,
  PRNGKey,
  PyTree,
  Scalar,
)

ModelFields = Mapping[str, Any]

# Fields of `config.model` that are neither the network's nor a quantizer's.
OWN_FIELDS = {
    "quantizer": fields_lib.Field(
        name="quantizer",
        default="vq",
        doc=f"How vectors become words: `{'`, `'.join(QUANTIZERS)}`. See "
        "[which quantizer](#which-quantizer).",
        source="ours"),
    "code_dropout": fields_lib.Field(
        name="code_dropout",
        default="random",
        doc="`random`, `ordered` (drops a suffix) or `none`; training only.",
        source="ours, as released",
        check=fields_lib.one_of(dropout.MODES)),
    "label_dropout": fields_lib.Field(
        name="label_dropout",
        default=0.0,
        doc="The share of the label's patches that the oracle does not see; "
        "training only.",
        source="AiT 0.5 for depth",
        check=fields_lib.number(0, 1.0)),
}
# The network gets this one from the quantizer.
_FROM_QUANTIZER = "codeword_dim"


@dataclasses.dataclass(frozen=True)
class GuidedModel:
  """A base model that a guiding code steers, and the oracle that writes it.

  Attributes:
    vit: the network of oracle and base model.
    quantizer: turns the oracle's vectors into a code, and back.
    code_dropout: how training drops words; see `uvim.codes.dropout`.
    label_dropout: share of the label that the oracle does not see in training;
      see `uvim.models.label_dropout`.
  """
  vit: ViT
  quantizer: Quantizer
  code_dropout: str = "random"
  label_dropout: float = 0.0

  @property
  def spec(self) -> CodeSpec:
    """What the guiding codes look like."""
    return self.quantizer.spec(self.vit.code_len)

  @property
  def has_oracle(self) -> bool:
    """Whether there is an oracle; without one there is no code."""
    return self.vit.oracle_depth > 0

  @property
  def grid(self) -> tuple[int, int] | None:
    """Rows and columns of the code; None if its places lie on no grid."""
    return self.vit.grid_of_code

  @property
  def image_encoder(self) -> ImageEncoder | None:
    """What oracle and base model see the image with."""
    return self.vit.image_encoder

  @property
  def image_size(self) -> tuple[int, int]:
    """Height and width of the image; labels have `vit.input_size`."""
    if self.image_encoder is None:
      return tuple(self.vit.input_size)
    return self.image_encoder.input_size

  def init(self, rng: PRNGKey) -> PyTree:
    """Fresh arrays, {"params", "state"}; traceable."""
    network_rng, quantizer_rng = jax.random.split(rng)
    params = init_network(self.vit, self.spec.vector_dim, network_rng)
    code_arrays = self.quantizer.init(quantizer_rng)
    # Most quantizers have none; a file then has no empty "quantizer".
    if code_arrays.params:
      params = {**params, "quantizer": code_arrays.params}
    if self.image_encoder:
      # A key of its own: the other numbers are those of a model without one.
      encoder_rng = jax.random.fold_in(rng, 0)
      encoder_params = self.image_encoder.init(encoder_rng)
      params = {**params, image_encoder_lib.NAME: encoder_params}
    return {"params": params, "state": code_arrays.state}

  def see(self, arrays: PyTree, ctx: Seen) -> Context:
    """Runs the image encoder, if there is one and it has not run.

    Whoever needs the image several times calls this once: the other methods
    take its result in place of an image.

    Args:
      arrays: see the file's docstring.
      ctx: the image at `image_size` in [-1, 1], or what this returned.
    """
    return image_encoder_lib.see(
        self.image_encoder, arrays["params"], ctx)

  def oracle(
      self,
      arrays: PyTree,
      x: Labels,
      ctx: Seen,
      rngs_B: PRNGKey | None = None,
      step: jax.Array | None = None,
  ) -> Coded:
    """The oracle's guiding code for labels, and what training needs of it.

    Args:
      arrays: see the file's docstring.
      x: the labels in patches, see `ViT.encode`.
      ctx: the image, [B, H, W, 3] in [-1, 1], or what `see` made of it.
      rngs_B: see `Quantizer.encode`.
      step: see `Quantizer.encode`.

    Raises:
      ConfigError: the model has no oracle.
    """
    x_BLE = self.written(arrays, x, ctx)
    return self.quantize(arrays, x_BLE, rngs_B, step)

  def written(self, arrays: PyTree, x: Labels, ctx: Seen) -> CodeVectors:
    """What the oracle writes of labels, before the quantizer; see `oracle`."""
    if not self.has_oracle:
      raise ConfigError("config.model.oracle_depth = 0: such a model has no "
                        "oracle and no code.")
    ctx = self.see(arrays, ctx)
    return self._apply("encode", arrays, x, ctx)

  def quantize(
      self,
      arrays: PyTree,
      x_BLE: CodeVectors,
      rngs_B: PRNGKey | None = None,
      step: jax.Array | None = None,
  ) -> Coded:
    """The code of what the oracle wrote; see `Quantizer.encode`."""
    code_arrays = _code_arrays(arrays)
    return self.quantizer.encode(code_arrays, x_BLE, rngs_B, step)

  def embed(
      self,
      arrays: PyTree,
      code: Array,
      dropped_BL: Dropped | None = None,
  ) -> CodeVectors:
    """The vectors of a code; see `Quantizer.embed`."""
    code_arrays = _code_arrays(arrays)
    return self.quantizer.embed(code_arrays, code, dropped_BL)

  def drop(
      self,
      arrays: PyTree,
      z_BLE: CodeVectors,
      dropped_BL: Dropped,
  ) -> CodeVectors:
    """Code vectors without those places; see `Quantizer.drop`."""
    code_arrays = _code_arrays(arrays)
    return self.quantizer.drop(code_arrays, z_BLE, dropped_BL)

  def drop_for_training(
      self,
      arrays: PyTree,
      z_BLE: CodeVectors,
      rngs_B: PRNGKey,
  ) -> CodeVectors:
    """Code dropout (paper, section 2.3)."""
    if self.code_dropout == "none":
      return z_BLE
    dropped_BL = dropout.draw_dropped(
        rngs_B, self.vit.code_len, self.code_dropout)
    return self.drop(arrays, z_BLE, dropped_BL)

  def drop_labels(self, x: Labels, rngs_B: PRNGKey) -> Labels:
    """What the oracle sees of the labels in training."""
    if not self.label_dropout:
      return x
    return label_dropout_lib.drop_labels(x, rngs_B, self.label_dropout)

  def embed_no_code(self, arrays: PyTree, batch_size: int) -> CodeVectors:
    """The vectors of a code that says nothing at all."""
    spec = self.spec
    # Not these zeros themselves: a quantizer may say "no word" otherwise.
    z_BLE = jnp.zeros((batch_size, spec.length, spec.vector_dim))
    dropped_BL = jnp.ones((batch_size, spec.length), bool)
    return self.drop(arrays, z_BLE, dropped_BL)

  def base_model(
      self,
      arrays: PyTree,
      z_BLE: CodeVectors,
      ctx: Seen,
  ) -> Logits:
    """The logits of f for code vectors and an image; `ctx` as in `oracle`."""
    ctx = self.see(arrays, ctx)
    return self._apply("decode", arrays, z_BLE, ctx)

  def loss(
      self,
      arrays: PyTree,
      z_BLE: CodeVectors,
      ctx: Seen,
      x: Labels,
      loss_fn: Callable,
      *,
      chunk_logits: int | None = None,
  ) -> tuple[Scalar, dict[str, Scalar]]:
    """The loss of f, averaged over the batch; for training.

    Never more than the logits of a few pixels of each patch exist: all of them
    are 245 MB for one 512x512 image, and their gradient as much again.

    Args:
      arrays: see the file's docstring.
      z_BLE: code vectors.
      ctx: as in `oracle`.
      x: what to predict, per key of `outputs`.
      loss_fn: (logits, x) → (loss [B], logs of [B]), each a mean over the
        pixels of a patch: a task's `loss`.
      chunk_logits: the most logits at a time; None: as suits the device.

    Returns:
      The mean loss and the means of the logs, which have no gradient.
    """
    ctx = self.see(arrays, ctx)
    x_BND = self._apply("decode_tokens", arrays, z_BLE, ctx)
    loss_of_heads = self._loss_of_heads(loss_fn, x_BND, chunk_logits)
    head_params = self._head_params(arrays)
    return loss_of_heads.mean(head_params, x_BND, x)

  def loss_of_each(
      self,
      arrays: PyTree,
      z_BLE: CodeVectors,
      ctx: Seen,
      x: Labels,
      loss_fn: Callable,
  ) -> tuple[PerExample, dict[str, PerExample]]:
    """As `loss`, but of each example; for evaluation."""
    ctx = self.see(arrays, ctx)
    x_BND = self._apply("decode_tokens", arrays, z_BLE, ctx)
    loss_of_heads = self._loss_of_heads(loss_fn, x_BND)
    head_params = self._head_params(arrays)
    return loss_of_heads.of_each(head_params, x_BND, x)

  def _apply(self, method, arrays, *inputs):
    """A method of the network, with its parameters."""
    variables = {"params": _network_params(arrays)}
    return self.vit.apply(variables, *inputs, method=method)

  def _head_params(self, arrays):
    params = arrays["params"]
    return {key: params[f"head_{key}"] for key in self.vit.outputs}

  def _loss_of_heads(self, loss_fn, x_BND, chunk_logits=None):
    """`loss_fn` as a function of the heads' parameters, by chunks of pixels."""
    outputs = self.vit.outputs

    # The heads' kernels are arguments, because they come in chunks too: each
    # pixel of a patch has its own slice of them.
    def loss_of_heads(params, x_BND, x):
      logits = {key: heads.logits(params[key], x_BND) for key in outputs}
      return loss_fn(logits, x)

    num_tokens = x_BND.shape[0] * x_BND.shape[1]
    chunk_size = losses.chunk_size(num_tokens, outputs, chunk_logits)
    return losses.ChunkedLoss(loss_of_heads, chunk_size)


def make_guided_model(model_fields: ModelFields, where: str) -> GuidedModel:
  """Builds network and quantizer from one block of fields.

  Args:
    model_fields: such as `config.model`: fields of `ViT`, of the quantizer
      that `quantizer` names, and those of OWN_FIELDS.
    where: path of that block, for messages.

  Raises:
    ConfigError: an unknown or missing field, a value that is not allowed, a
      field of another quantizer, sizes that do not fit.
  """
  model_fields = bottleneck_lib.rename(model_fields, where)
  known = known_fields(model_fields, where)
  _refuse_fields_of_other_quantizers(model_fields, known, where)
  fields_lib.check_fields(known, model_fields, where)

  quantizer_cls = QUANTIZERS[_own_value(model_fields, "quantizer")]
  quantizer_fields = fields_lib.fields_of(quantizer_cls)
  quantizer = quantizer_cls(**_only(model_fields, quantizer_fields))

  network_fields = _only(model_fields, _network_fields())
  network_fields["image_encoder"] = image_encoder_lib.make(
      model_fields.get("image_encoder"), f"{where}.image_encoder")
  network = ViT(**network_fields, codeword_dim=quantizer.oracle_dim)
  vit_lib.check_vit(network)

  return GuidedModel(
      network, quantizer,
      code_dropout=_own_value(model_fields, "code_dropout"),
      label_dropout=_own_value(model_fields, "label_dropout"))


def known_fields(
    model_fields: ModelFields,
    where: str,
) -> dict[str, fields_lib.Field]:
  """All fields that a block may have, by name; see `make_guided_model`.

  Raises:
    ConfigError: an unknown quantizer.
  """
  name = _own_value(model_fields, "quantizer")
  quantizer_cls = lookup(QUANTIZERS, name, f"{where}.quantizer")
  quantizer_fields = fields_lib.fields_of(quantizer_cls)
  known = _network_fields() | quantizer_fields | OWN_FIELDS
  # An old config has the old name, and then not the new one.
  if bottleneck_lib.OLD_NAME in model_fields:
    del known[bottleneck_lib.NAME]
    known[bottleneck_lib.OLD_NAME] = bottleneck_lib.OLD_FIELD
  return known


def _network_fields() -> dict[str, fields_lib.Field]:
  """The fields of `ViT` that a config gives."""
  known = fields_lib.fields_of(ViT)
  # The quantizers have a field of that name, which is theirs to describe.
  del known[_FROM_QUANTIZER]
  return known


def _own_value(model_fields, name):
  """What a block says of one of OWN_FIELDS, or its default."""
  return model_fields.get(name, OWN_FIELDS[name].default)


def _refuse_fields_of_other_quantizers(model_fields, known, where):
  """A field that nobody reads must not be set."""
  quantizer_name = _own_value(model_fields, "quantizer")
  for other_name, other_cls in QUANTIZERS.items():
    for field_name in fields_lib.fields_of(other_cls):
      if field_name in model_fields and field_name not in known:
        raise ConfigError(
            f"{where}.{field_name} is a field of quantizer {other_name!r}, "
            f"but {where}.quantizer = {quantizer_name!r}.")


def _only(values, names):
  return {name: fields_lib.hashable(values[name])
          for name in names if name in values}


# Jitted for its cache: a run asks for the shapes several times, seconds each.
@functools.partial(jax.jit, static_argnums=(0, 1))
def init_network(vit: ViT, vector_dim: int, rng: PRNGKey) -> PyTree:
  """The parameters (float32) of a new network; `vector_dim` is E."""
  num_tokens = math.prod(vit.grid_size)
  labels = {}
  for key, (_, num_pixels) in vit.inputs.items():
    labels[key] = jnp.zeros((1, num_tokens, num_pixels), jnp.int32)
  ctx = Context(image=jnp.zeros((1, *vit.input_size, 3)))
  if vit.image_encoder:
    features_shape = (1, *vit.image_encoder.features_shape)
    ctx = ctx.replace(features=jnp.zeros(features_shape))
  z_BLE = jnp.zeros((1, vit.code_len, vector_dim))
  return vit.init(rng, labels, ctx, z_BLE)["params"]


def _network_params(arrays):
  """The parameters without those of quantizer and image encoder."""
  params = dict(arrays["params"])
  params.pop("quantizer", None)
  params.pop(image_encoder_lib.NAME, None)
  return params


def _code_arrays(arrays) -> CodeArrays:
  params = arrays["params"].get("quantizer", {})
  return CodeArrays(params, arrays["state"])
