"""Models that their bare arrays do not tell."""

import jax
import pytest

from uvim import tree
from uvim.priors import make_prior
from uvim.registry import ConfigError
from uvim.store import shapes

FIELDS = dict(
    style="ar", num_layers=2, num_heads=2, mlp_dim=16, emb_dim=8,
    patches={"size": (4, 4)}, vocab_size=10, input_size=(8, 8), seq_len=4)


def shapes_of(**changes):
  """Array name → shape of a stage II model."""
  prior = make_prior(FIELDS | changes, "config.model")
  params = jax.eval_shape(prior.init, jax.random.key(0))
  flat = tree.flatten({"params": params})
  return {name: array.shape for name, array in flat.items()}


def test_a_plain_model_is_told_by_its_shapes():
  assert shapes.stage_ii_fields(shapes_of()) == FIELDS


def test_a_mark_tells_the_style():
  arrays = shapes_of(style="masked")
  # Its parameters look like those of the other style.
  assert arrays == shapes_of()
  fields = shapes.stage_ii_fields(arrays | {"state/style_masked": ()})
  assert fields == FIELDS | {"style": "masked"}
  with pytest.raises(ConfigError, match="style 'other'.*its run's workdir"):
    shapes.stage_ii_fields(arrays | {"state/style_other": ()})


@pytest.mark.parametrize("changes, what", [
    (dict(backbone="conv_stem"), "the backbone conv_stem"),
    (dict(backbone="mixer"), "the backbone mixer"),
    (dict(encoder_style="dinov2"), "a class token"),
    (dict(image_encoder=dict(
        variant="Ti/14", depth=1, input_size=(14, 14))), "an image_encoder"),
])
def test_other_models_are_opened_from_their_workdir(changes, what):
  with pytest.raises(ConfigError, match=f"{what}.*from its run's workdir"):
    shapes.stage_ii_fields(shapes_of(**changes))


def test_a_code_without_a_codebook_is_opened_from_its_workdir():
  with pytest.raises(ConfigError, match="is not vq.* its run's workdir"):
    shapes.stage_i_fields({"params/decoder_stem/kernel": (3, 16)})
