"""The quantizers that configs take as arguments, at about equal bits.

Without such an argument a config has the quantizer `vq`. The others get about
as many words a place as its codebook has, and `residual` as many pairs of
words. `givt` is a code of real numbers; its stage II is GIVT.
"""

import math
from typing import NamedTuple

# The arguments of a config, for `common.parse_arg`.
ARGUMENTS = dict(
    fsq=False, lfq=False, vq_gradient=False, residual=False, gumbel=False,
    givt=False)
# Of quantizer `vq` alone: no other one has a codebook that is counted.
VQ_FIELDS = ("dict_momentum", "dict_learning", "dict_splitting",
             "commitment_weight")
# Words of the paper's codebook.
PAPER_WORDS = 4096
# Words of a place with quantizer `residual`.
NUM_QUANTIZERS = 2
# Of stage II, about words. A model of real numbers has none of these.
WORD_FIELDS = ("vocab_size", "num_quantizers", "autoregressive", "code_grid")
# DALL·E's weight, for sums over places and over pixels.
KL_WEIGHT = 6.6


class Size(NamedTuple):
  """What belongs to a size of the codebook.

  Attributes:
    levels: of FSQ, for about as many words; from the advice of its paper.
    tau_steps: steps in which the temperature of `gumbel` falls: the first part
      of the run.
    kl_steps: steps in which its loss comes in.
  """
  levels: tuple[int, ...]
  tau_steps: int
  kl_steps: int


# Words of the codebook → the rest.
SIZES = {
    16: Size((4, 4), 2, 1),
    256: Size((8, 6, 5), 2000, 200),
    # NYU depth has 9,294 steps.
    PAPER_WORDS: Size((7, 5, 5, 5, 5), 4000, 400),
}


def use(model, args):
  """Puts the quantizer that the arguments name into a stage I model.

  Args:
    model: a `config.model` of stage I with quantizer `vq`, complete.
    args: of `parse_arg`, with ARGUMENTS.

  Raises:
    ValueError: the arguments name several.
  """
  chosen = [name for name in ARGUMENTS if getattr(args, name)]
  if not chosen:
    return
  if len(chosen) > 1:
    raise ValueError(f"Config arguments {', '.join(chosen)}: a model has one "
                     "quantizer.")
  name, = chosen
  for field in VQ_FIELDS:
    if field in model:
      del model[field]
  model.quantizer = name
  _SETTERS[name](model)


def set_words(config):
  """Gives stage II as many words as its oracle has.

  Args:
    config: of stage II, with its oracle.
  """
  oracle = config.oracle.model
  if oracle.get("quantizer") == "gaussian":
    _set_vectors(config.model, oracle)
    _set_search(config, oracle)
    return
  # References, which follow an override of the oracle. The vocabulary has one
  # more: the word 0 starts a text.
  words = dict(
      vocab_size=oracle.get_ref("dict_size") + 1,
      seq_len=oracle.get_ref("code_len"))
  if "num_quantizers" in oracle:
    words["num_quantizers"] = oracle.get_ref("num_quantizers")
    words["seq_len"] = words["seq_len"] * words["num_quantizers"]
  for name, reference in words.items():
    # A new value of an old reference would be one of what it refers to.
    if name in config.model:
      del config.model[name]
    config.model[name] = reference


def _set_vectors(model, oracle):
  """GIVT in place of the language model: one Gaussian for each number."""
  # A new value of an old reference would be one of what it refers to.
  for name in (*WORD_FIELDS, "seq_len"):
    if name in model:
      del model[name]
  model.update(
      style="givt", num_mixtures=1, per_channel_mixtures=True,
      multivariate=False, scale_tol=1e-6, fix_square_plus=True)
  model.seq_len = oracle.get_ref("code_len")
  model.out_dim = oracle.get_ref("codeword_dim")


def _set_search(config, oracle):
  """Draws codes for the evaluators as GIVT's authors do."""
  search = dict(temp=0.85, beam_size=4, fan_size=8)
  if "depth" in oracle.inputs:
    search = dict(temp=0.9, beam_size=2, fan_size=8)
  for name, _ in config.get("evals", ()):
    options = config[name].get("pred_kw", {})
    config[name].pred_kw = dict(options, **search)


# ── Each quantizer ──────────────────────────────────────────────────────────


def _set_fsq(model):
  levels = SIZES[model.dict_size].levels
  model.levels = levels
  # Both follow from `levels`; whoever sets those sets these, too.
  model.dict_size = math.prod(levels)
  model.codeword_dim = len(levels)


def _set_lfq(model):
  # A word has 2 to the power of this many values.
  model.codeword_dim = int(math.log2(model.dict_size))
  model.update(
      spherical=False, entropy_loss_weight=0.1, diversity_gamma=1.0,
      inv_temperature=100.0, commitment_weight=0.0)


def _set_vq_gradient(model):
  # As ViT-VQGAN has it: few numbers, of length 1.
  model.update(
      codeword_dim=32, use_l2_norm=True, commitment_weight=0.25,
      entropy_loss_weight=0.0, entropy_temperature=0.01)


def _set_residual(model):
  # 16 × 16 pairs of words in place of 256 words.
  model.dict_size = round(model.dict_size ** (1 / NUM_QUANTIZERS))
  model.update(
      codeword_dim=32, num_quantizers=NUM_QUANTIZERS, commitment_weight=0.25)


def _set_gumbel(model):
  size = SIZES[model.dict_size]
  height, width = model.input_size
  # Here both sums are means, so the weight is divided by pixels of a place.
  places_per_pixel = model.code_len / (height * width)
  model.update(
      tau_max=1.0, tau_min=1 / 16, tau_steps=size.tau_steps,
      kl_weight=KL_WEIGHT * places_per_pixel, kl_steps=size.kl_steps,
      hard=False)


def _set_givt(model):
  model.quantizer = "gaussian"
  if model.dict_size == PAPER_WORDS:
    # As published: all that the base model knows is the code.
    model.update(with_encoder_ctx=False, with_decoder_ctx=False)
  del model["dict_size"]
  beta = 2e-4 if "depth" in model.inputs else 2.5e-4
  model.update(codeword_dim=16, beta=beta, code_dropout="none")


_SETTERS = {
    "fsq": _set_fsq,
    "lfq": _set_lfq,
    "vq_gradient": _set_vq_gradient,
    "residual": _set_residual,
    "gumbel": _set_gumbel,
    "givt": _set_givt,
}
