"""The fields of a model, read off the names and shapes of its parameters.

The published checkpoints are bare arrays. Everything their models need is in
the shapes, with two exceptions. The code length of stage I leaves no trace
where the grid is resized linearly. Some switches (code dropout, momentum) leave
none either, but do not matter once training is over.

L code length · N patches
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from uvim.registry import ConfigError
from uvim.tasks import task_of_outputs

CODE_LEN = 256  # Of every published model.
# The beginning of the name of an array that says how a prior predicts, where
# no other array does: 'state/style_masked'. The published files have none.
STYLE_MARK = "state/style_"
STYLE_OF_UNMARKED = "ar"
# The styles whose parameters have the names and shapes of `ar`.
_MARKED_STYLES = ("masked",)
_ATTENTION = "MultiHeadDotProductAttention_0/query/kernel"
_MLP = "MlpBlock_0/Dense_0/kernel"
# What reads the code: in stage I the base model, in stage II a prior of
# vectors.
_STEM = "params/decoder_stem/kernel"
_VECTORS = "params/EmbedTargets/kernel"
# What takes the noise out of a mask, in Pix2Seq-D.
_DENOISER = "params/denoiser/"

# Array name ('params/…', 'state/…') → shape.
Shapes = Mapping[str, tuple[int, ...]]


def kind_of(shapes: Mapping[str, Any]) -> str:
  """The family of arrays of these names: "vqvae", "lm" or "pix2seq_d"."""
  if any(name.startswith(_DENOISER) for name in shapes):
    return "pix2seq_d"
  # Only a base model has a stem that reads codewords.
  is_stage_i = _STEM in shapes
  return "vqvae" if is_stage_i else "lm"


def style_of(names: Collection[str]) -> str | None:
  """The style that the names of arrays tell; None: they tell none.

  Raises:
    ConfigError: a style whose other fields no array tells.
  """
  if _VECTORS in names:
    return "givt"
  for name in names:
    if name.startswith(STYLE_MARK):
      style = name.removeprefix(STYLE_MARK)
      if style not in _MARKED_STYLES:
        raise ConfigError(f"A prior of style {style!r}: no array tells its "
                          "fields. Open it from its run's workdir.")
      return style
  return None


def stage_i_fields(shapes: Shapes, code_len: int = CODE_LEN) -> dict[str, Any]:
  """Fields of a stage I model, for `uvim.models.guided.make_guided_model`.

  Args:
    shapes: array name ('params/…', 'state/…') -> shape.
    code_len: taken if the arrays do not tell, that is, if the model resizes its
      grid to the code.

  Raises:
    ConfigError: an array is missing, or the grid of patches is not a square.
  """
  _refuse_untold(shapes)
  quantizer = _quantizer_fields(shapes)
  block = "params/decoder/encoderblock_"
  width, heads, _ = _shape(shapes, f"{block}0/{_ATTENTION}", 3)
  _, mlp_dim = _shape(shapes, f"{block}0/{_MLP}", 2)
  outputs = {key: shape[1:] for key, shape in _named(shapes, "head")}
  inputs = {key: shape[:2] for key, shape in _named(shapes, "embedding")}
  if not outputs:
    raise ConfigError("No array 'params/head_…/kernel': not a stage I model.")
  # Every patch of a label has as many pixels; the published ones are square.
  _, num_pixels = next(iter(outputs.values()))
  patch = _side(num_pixels, "pixels in a patch")
  num_patches = _shape(shapes, "params/pos_embedding_decoder", 3)[1]
  size = patch * _side(num_patches, "patches")
  return dict(
      quantizer | _bottleneck_fields(shapes, code_len),
      input_size=(size, size),
      patch_size=(patch, patch),
      width=width,
      oracle_depth=_depth(shapes, "params/encoder/encoderblock_"),
      base_model_depth=_depth(shapes, block),
      mlp_dim=mlp_dim,
      num_heads=heads,
      # A model without an oracle has no inputs; the config needs some.
      inputs=inputs or outputs,
      outputs=outputs,
      with_encoder_ctx="params/ctx_enc_embedding/kernel" in shapes,
      with_decoder_ctx="params/ctx_dec_embedding/kernel" in shapes)


def _quantizer_fields(shapes):
  """The fields of a codebook, or of a code of real numbers."""
  if _is_gaussian(shapes):
    codeword_dim, _ = _shape(shapes, _STEM, 2)
    # The weight of a loss does not matter once training is over.
    return dict(quantizer="gaussian", codeword_dim=codeword_dim, beta=0.0)
  if kind_of(shapes) == "vqvae" and "state/dictionary" not in shapes:
    raise ConfigError(
        "No array 'state/dictionary', so the quantizer of this model is not "
        "vq, and no array tells which it is. Open it from its run's workdir.")
  dict_size, codeword_dim = _shape(shapes, "state/dictionary", 2)
  return dict(dict_size=dict_size, codeword_dim=codeword_dim)


def _is_gaussian(shapes):
  """Whether the oracle writes two numbers for each that f reads, and no more.

  No other quantizer without arrays does.
  """
  head = "params/encoder_head/kernel"
  if not {head, _STEM} <= shapes.keys():
    return False
  has_arrays = any(name.startswith(("state/", "params/quantizer/"))
                   for name in shapes)
  _, num_written = _shape(shapes, head, 2)
  num_read, _ = _shape(shapes, _STEM, 2)
  return not has_arrays and num_written == 2 * num_read


# (beginning of a name, what such a model has)
_UNTOLD = (
    ("params/image_encoder/",
     "an image_encoder: no array tells its family and the size of its image"),
    ("params/encoder_prefix",
     "a class token: no array tells its encoder_style"),
    ("params/EmbedPatches/conv_0/", "the backbone conv_stem"),
    ("params/encoder/encoderblock_0/token_mixing/", "the backbone mixer"),
    ("params/place_projection/",
     "a code_grid: no array tells its rows and columns"),
)


def _refuse_untold(shapes):
  """Raises a ConfigError for arrays that do not tell the whole model."""
  for name in shapes:
    for beginning, what in _UNTOLD:
      if name.startswith(beginning):
        raise ConfigError(
            f"A model with {what}. Open it from its run's workdir.")


def _bottleneck_fields(shapes, code_len):
  """How the grid of tokens becomes a code, and how long that is."""
  linear = "params/bottleneck_upsample"
  latent = "params/latent_token_positional_embedding"
  if linear in shapes:
    # The map is a matrix [L, N].
    code_len, _ = _shape(shapes, linear, 2)
    return dict(code_len=code_len, bottleneck="linear")
  if latent in shapes:
    _, code_len, _ = _shape(shapes, latent, 3)
    return dict(code_len=code_len, bottleneck="latent")
  return dict(code_len=code_len, bottleneck="resize")


def stage_ii_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of a prior, for `uvim.priors.make_prior`; arguments as above."""
  _refuse_untold(shapes)
  rows, columns, _, width = _shape(shapes, "params/EmbedPatches/kernel", 4)
  num_patches = _shape(shapes, "params/pos_embedding_encoder", 3)[1]
  side = _side(num_patches, "patches")
  block = "params/encoder/encoderblock_"
  _, heads, _ = _shape(shapes, f"{block}0/{_ATTENTION}", 3)
  _, mlp_dim = _shape(shapes, f"{block}0/{_MLP}", 2)
  layers = _depth(shapes, block)
  decoder = _decoder_fields(shapes)
  encoder = dict(
      decoder_layers=layers,
      decoder_heads=heads,
      decoder_mlp_dim=mlp_dim,
      decoder_emb_dim=width)
  # Equal sizes are not said twice, as in the released configs.
  if decoder == encoder:
    decoder = {}
  sequence = _vector_fields if _VECTORS in shapes else _word_fields
  return dict(
      decoder | sequence(shapes),
      num_layers=layers,
      num_heads=heads,
      mlp_dim=mlp_dim,
      emb_dim=width,
      patches={"size": (rows, columns)},
      input_size=(side * rows, side * columns))


def _word_fields(shapes):
  """What a prior of words says of its sequences."""
  vocab_size, _ = _shape(shapes, "params/decoder/EmbedTargets/embedding", 2)
  _, seq_len, _ = _shape(shapes, "params/pos_embedding_decoder", 3)
  return dict(
      style=style_of(shapes) or STYLE_OF_UNMARKED,
      vocab_size=vocab_size,
      seq_len=seq_len)


def _vector_fields(shapes):
  """What GIVT says of its sequences."""
  out_dim, _ = _shape(shapes, _VECTORS, 2)
  _, seq_len, _ = _shape(shapes, "params/decoder/pos_emb", 3)
  _, num_logits = _shape(shapes, "params/decoder/LogitsDense/kernel", 2)
  # In the published models each number has one Gaussian: a weight, a mean and a
  # scale. More numbers may mean several things.
  if num_logits != 3 * out_dim:
    raise ConfigError(
        f"{num_logits} numbers describe the density of a vector of {out_dim}, "
        "and no array tells how. Open it from its run's workdir.")
  return dict(style="givt", out_dim=out_dim, seq_len=seq_len)


def _decoder_fields(shapes):
  """The `decoder_…` fields of `LM`, whether or not they differ."""
  block = "params/decoder/EncDecBlock"
  width, heads, _ = _shape(shapes, f"{block}0/SelfAttn/query/kernel", 3)
  _, mlp_dim = _shape(shapes, f"{block}0/MLP/Dense_0/kernel", 2)
  return dict(
      decoder_layers=_depth(shapes, block),
      decoder_heads=heads,
      decoder_mlp_dim=mlp_dim,
      decoder_emb_dim=width)


def task_name(fields: Mapping[str, Any]) -> str:
  """The task a stage I model of these fields was trained for."""
  return task_of_outputs(fields["outputs"])


def _shape(shapes, name, num_axes):
  """The shape of an array, which must have so many axes."""
  if name not in shapes:
    raise ConfigError(f"No array {name!r}: not a UViM checkpoint.")
  return _checked(name, shapes[name], num_axes)


def _checked(name, shape, num_axes):
  if len(shape) != num_axes:
    raise ConfigError(f"The array {name!r} is {list(shape)}; expected "
                      f"{num_axes} axes.")
  return tuple(shape)


def _named(shapes, kind):
  """(key, shape of its kernel) of all arrays params/KIND_KEY/kernel."""
  pattern = re.compile(rf"params/{kind}_(\w+)/kernel")
  for name, shape in shapes.items():
    match = pattern.fullmatch(name)
    if match:
      yield match[1], _checked(name, shape, 3)


def _depth(shapes, prefix):
  """How many blocks have names that begin like this: PREFIX0/…, PREFIX1/…."""
  blocks = set()
  for name in shapes:
    if name.startswith(prefix):
      number, _, _ = name.removeprefix(prefix).partition("/")
      blocks.add(number)
  return len(blocks)


def _side(number, what):
  """The side of a square of so many parts."""
  side = math.isqrt(number)
  if side ** 2 != number:
    raise ConfigError(
        f"{number} {what} are no square; only a run's workdir tells the size "
        "of such a model.")
  return side
