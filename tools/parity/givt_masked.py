"""What GIVT has of masked prediction: schedules, masks, a small network.

B batch · L code length · D width · E numbers of a code vector

No config makes a model that predicts masked vectors. So the fixture's network
stands here, made of the parts of the prior. It knows a class in place of an
image.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tools.parity import common
from tools.parity.common import Quantity
from uvim import tree
from uvim.nn import transformer
from uvim.priors import decoder, mask_schedules, masked_sampling
from uvim.priors.mixtures import MixtureForm

_SCHEDULE = "mask_schedule/"
_RATIO = f"{_SCHEDULE}ratio"


def compare(
    file: str,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    form: MixtureForm,
) -> Iterator[Quantity]:
  """Schedules, the lowest of some values, and the network.

  Args:
    file: name of the fixture.
    arrays: all of it.
    about: options of the network.
    form: of its densities.
  """
  for name, theirs in arrays.items():
    if name.startswith(_SCHEDULE) and name != _RATIO:
      # Theirs is 'pow:2', ours 'pow2'.
      method = name.removeprefix(_SCHEDULE).replace(":", "")
      ours = mask_schedules.masked_share(
          arrays[_RATIO], np.float32(2), method)
      yield Quantity(f"{file}/{name}", ours, theirs)
  of_masks = common.below(arrays, "bottom_k/")
  mask = masked_sampling.are_lowest(
      of_masks["values"], of_masks["k"][:, 0])
  yield from common.match(
      f"{file}/bottom_k", of_masks, {"mask": mask}, inputs=["values", "k"])
  yield from _compare_network(
      f"{file}/masked", common.below(arrays, "masked/"), about, form)


def _compare_network(file, theirs, about, form) -> Iterator[Quantity]:
  network = MaskedNetwork(
      num_layers=about["num_decoder_layers"],
      num_heads=about["num_heads"],
      mlp_dim=about["mlp_dim"],
      emb_dim=about["emb_dim"],
      num_labels=about["num_labels"],
      mask_style=about["mask_style"],
      num_logits=form.num_logits)
  params = tree.unflatten(common.below(theirs, "params/"))

  @jax.jit
  def run(params):
    logits = network.apply(
        {"params": params}, theirs["sequence"], theirs["labels"],
        theirs["mask"])
    density = form.density(logits)
    return {"logits": logits, "nll": -density.log_prob(theirs["sequence"])}

  yield from common.match(
      file, theirs, run(params),
      inputs=["params/*", "labels", "sequence", "mask"])


class MaskedNetwork(nn.Module):
  """Vectors of which some are masked, and a class → numbers for each.

  Attributes:
    num_layers, num_heads, mlp_dim, emb_dim, num_logits: as of `VectorDecoder`.
    num_labels: number of classes.
    mask_style: "replace": another vector stands for a masked one. "concat":
      half of the numbers say whether it is masked.
  """
  num_layers: int
  num_heads: int
  mlp_dim: int
  emb_dim: int
  num_labels: int
  mask_style: str
  num_logits: int

  @nn.compact
  def __call__(self, z_BLE, labels_B, is_masked_BL):
    num_special = 1 if self.mask_style == "replace" else 3
    embed_label = nn.Embed(
        self.num_labels + num_special, self.emb_dim, name="EmbedLabels")
    vectors_BLD = nn.Dense(self.emb_dim, name="EmbedTargets")(z_BLE)
    is_masked_BL1 = is_masked_BL[..., None]

    def special(number):
      """The embedding of what is no class."""
      label_11 = jnp.full((1, 1), self.num_labels + number)
      return embed_label(label_11)

    if self.mask_style == "replace":
      x_BLD = jnp.where(is_masked_BL1, special(0), vectors_BLD)
    else:
      flags_BLD = jnp.where(is_masked_BL1, special(0), special(1))
      kept_BLD = jnp.where(is_masked_BL1, special(2), vectors_BLD)
      x_BLD = jnp.concatenate(
          [flags_BLD[..., ::2], kept_BLD[..., ::2]], axis=-1)
    class_B1D = embed_label(labels_B)[:, None]
    x_BLD = jnp.concatenate([class_B1D, x_BLD], axis=1)
    decode = _Decoder(
        self.num_layers, self.num_heads, self.mlp_dim, self.num_logits,
        name="decoder")
    return decode(x_BLD)[:, 1:]


class _Decoder(nn.Module):
  """Blocks without an image, in which every place reads every place."""
  num_layers: int
  num_heads: int
  mlp_dim: int
  num_logits: int

  @nn.compact
  def __call__(self, x_BLD):
    shape_1LD = (1, *x_BLD.shape[1:])
    x_BLD = x_BLD + self.param("pos_emb", nn.initializers.zeros, shape_1LD)
    for i in range(self.num_layers):
      block = _Block(self.num_heads, self.mlp_dim, name=f"EncDecBlock{i}")
      x_BLD = block(x_BLD)
    last_norm = nn.LayerNorm(
        epsilon=decoder.NORM_EPSILON, name="LayerNorm")
    return nn.Dense(self.num_logits, name="LogitsDense")(last_norm(x_BLD))


class _Block(nn.Module):
  """`decoder.DecoderBlock` without the attention to an image."""
  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x_BLD):
    def norm(name):
      return nn.LayerNorm(
          epsilon=decoder.NORM_EPSILON, use_bias=False, name=name)

    attend = transformer.MultiHeadDotProductAttention(
        self.num_heads, use_bias=False, name="SelfAttn")
    x_BLD = x_BLD + attend(norm("LayerNorm1")(x_BLD))
    mlp = transformer.MlpBlock(self.mlp_dim, name="MLP")
    return x_BLD + mlp(norm("LayerNorm3")(x_BLD))
