"""The fields of a model, read off the names and shapes of its parameters.

The published checkpoints are bare arrays. Everything their models need is in
the shapes but the code length of stage I, which only a linear resize knows,
and switches that leave no trace (code dropout, momentum) and do not matter
once training is over.

N patches · D width · A heads · P pixels in a patch · K classes
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from uvim.registry import ConfigError
from uvim.tasks import task_of_outputs

CODE_LEN = 256  # Of every published model.
_ATTENTION = "MultiHeadDotProductAttention_0/query/kernel"
_MLP = "MlpBlock_0/Dense_0/kernel"


def kind_of(shapes: Mapping[str, Any]) -> str:
  """The family of arrays of these names: "vqvae" or "lm"."""
  return "vqvae" if "params/decoder_stem/kernel" in shapes else "lm"


def stage_i_fields(shapes: Mapping[str, tuple[int, ...]],
                   code_len: int = CODE_LEN) -> dict[str, Any]:
  """Constructor fields of `uvim.models.vit.ViT`.

  Args:
    shapes: array name ('params/…', 'state/…') -> shape.
    code_len: taken if the arrays do not tell, that is, for a grid resize.

  Raises:
    ConfigError: an array is missing, or the grid of patches is not a square.
  """
  dict_size, codeword_dim = _shape(shapes, "state/dictionary")
  block = "params/decoder/encoderblock_"
  width, heads, _ = _shape(shapes, f"{block}0/{_ATTENTION}")
  _, mlp_dim = _shape(shapes, f"{block}0/{_MLP}")
  outputs = {key: shape[1:] for key, shape in _named(shapes, "head")}
  inputs = {key: shape[:2] for key, shape in _named(shapes, "embedding")}
  if not outputs:
    raise ConfigError("No array 'params/head_…/kernel': not a stage I model.")
  # Every patch of a label has as many pixels; the published ones are square.
  patch = _side(next(iter(outputs.values()))[1], "pixels in a patch")
  num_patches = _shape(shapes, "params/pos_embedding_decoder")[1]
  size = patch * _side(num_patches, "patches")
  learned = shapes.get("params/bottleneck_upsample")
  return dict(
      input_size=(size, size), patch_size=(patch, patch), width=width,
      code_len=learned[0] if learned else code_len,
      bottleneck_resize=learned is None,
      oracle_depth=_depth(shapes, "params/encoder/encoderblock_"),
      base_model_depth=_depth(shapes, block),
      mlp_dim=mlp_dim, num_heads=heads, dict_size=dict_size,
      codeword_dim=codeword_dim, inputs=inputs or outputs, outputs=outputs,
      with_encoder_ctx="params/ctx_enc_embedding/kernel" in shapes,
      with_decoder_ctx="params/ctx_dec_embedding/kernel" in shapes)


def stage_ii_fields(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Constructor fields of `uvim.priors.lm.LM`; arguments as above."""
  rows, columns, _, width = _shape(shapes, "params/EmbedPatches/kernel")
  num_patches = _shape(shapes, "params/pos_embedding_encoder")[1]
  side = _side(num_patches, "patches")
  block = "params/encoder/encoderblock_"
  _, heads, _ = _shape(shapes, f"{block}0/{_ATTENTION}")
  _, mlp_dim = _shape(shapes, f"{block}0/{_MLP}")
  layers = _depth(shapes, block)
  decoder = _decoder_fields(shapes)
  same = decoder == dict(
      decoder_layers=layers, decoder_heads=heads, decoder_mlp_dim=mlp_dim,
      decoder_emb_dim=width)
  return dict(
      {} if same else decoder, num_layers=layers,
      num_heads=heads, mlp_dim=mlp_dim, emb_dim=width,
      patches={"size": (rows, columns)},
      input_size=(side * rows, side * columns),
      vocab_size=_shape(shapes, "params/decoder/EmbedTargets/embedding")[0],
      seq_len=_shape(shapes, "params/pos_embedding_decoder")[1])


def _decoder_fields(shapes):
  block = "params/decoder/EncDecBlock"
  width, heads, _ = _shape(shapes, f"{block}0/SelfAttn/query/kernel")
  _, mlp_dim = _shape(shapes, f"{block}0/MLP/Dense_0/kernel")
  return dict(decoder_layers=_depth(shapes, block), decoder_heads=heads,
              decoder_mlp_dim=mlp_dim, decoder_emb_dim=width)


def task_name(fields: Mapping[str, Any]) -> str:
  """The task a stage I model of these fields was trained for."""
  return task_of_outputs(fields["outputs"])


def _shape(shapes, name):
  if name not in shapes:
    raise ConfigError(f"No array {name!r}: not a UViM checkpoint.")
  return tuple(shapes[name])


def _named(shapes, kind):
  """(key, shape of its kernel) of all arrays params/KIND_KEY/kernel."""
  for name, shape in shapes.items():
    if match := re.fullmatch(rf"params/{kind}_(\w+)/kernel", name):
      yield match[1], tuple(shape)


def _depth(shapes, prefix):
  return len({name.removeprefix(prefix).split("/")[0]
              for name in shapes if name.startswith(prefix)})


def _side(number, what):
  side = math.isqrt(number)
  if side ** 2 != number:
    raise ConfigError(f"{number} {what} are no square; only a run's workdir "
                      "tells the size of such a model.")
  return side
