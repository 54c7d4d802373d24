"""Files of pretrained encoders: families, folding, and what is refused."""

import numpy as np
import pytest

from uvim import tree
from uvim.encoders import ENCODERS, base, convert
from uvim.encoders.base import EncoderSpec
from uvim.registry import ConfigError
from uvim.store import checkpoint

WIDTH = 24
HEADS = 3
# File → the families that it may be of.
FAMILIES = {
    "vit_dino_hf": {"augreg", "mae", "dino"},
    "vit_mae_hf": {"mae"},
    "dinov2_hf": {"dinov2"},
    "dinov2_registers_hf": {"dinov2_reg4"},
    "clip_hf": {"clip", "open_clip"},
    "siglip_hf": {"siglip"},
    "timm_augreg_mae_dino": {"augreg", "mae", "dino"},
    "timm_dinov2_reg4": {"dinov2_reg4"},
    "timm_clip_openai": {"clip", "open_clip"},
    "timm_siglip": {"siglip"},
}


@pytest.fixture(scope="module")
def read(shared):
  """Reads a file of random weights under the names of the hub."""
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other encoders")

  def read(name):
    path = folder / f"enc_{name}.safetensors"
    return tree.flatten(checkpoint.load_params(path))

  return read


def to_ours(arrays, family, grid=(4, 4), num_heads=HEADS, **changes):
  spec = EncoderSpec(family, num_heads, grid, **changes)
  return convert.to_ours(convert.recognise(arrays), arrays, spec)


def changed(arrays, name, array):
  """A copy with another array of this name, which lacks 'params/'."""
  return arrays | {f"params/{name}": array}


# ── Families ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_taken_for_its_families_alone(read, name):
  arrays = read(name)
  for family in ENCODERS:
    if family in FAMILIES[name]:
      ours, _ = to_ours(arrays, family)
      prefix = ours.get("params/encoder_prefix", np.zeros((1, 0, WIDTH)))
      assert prefix.shape[1] == ENCODERS[family].style.num_prefix
      continue
    with pytest.raises(ConfigError) as caught:
      to_ours(arrays, family, option="config.FIELD")
    # What to write instead.
    message = str(caught.value)
    assert "\n" not in message
    assert any(f"config.FIELD = {known!r}" in message
               for known in FAMILIES[name])


def test_what_gets_no_position_is_mae_s_class_token(read):
  arrays = read("timm_augreg_mae_dino")
  positions_1ND = arrays["params/pos_embed"].copy()
  positions_1ND[:, 0] = 0
  arrays = changed(arrays, "pos_embed", positions_1ND)
  to_ours(arrays, "mae")
  for family in ("dino", "augreg"):
    with pytest.raises(ConfigError, match="= 'mae'"):
      to_ours(arrays, family)


def test_a_vit_of_no_family_is_refused(read):
  arrays = read("timm_dinov2_reg4")
  registers = np.ones((1, 7, WIDTH), np.float32)
  arrays = changed(arrays, "reg_token", registers)
  with pytest.raises(ConfigError, match="7 registers.*no family.*augreg"):
    to_ours(arrays, "dinov2_reg4")


# ── Other networks ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("name, words", [
    ("encoder.layer.0.mlp.weights_in.weight", "SwiGLU.*take DINOv2-L/14"),
    ("blocks.0.mlp.w12.weight", "SwiGLU"),
    ("blocks.0.attn.rope.freqs", "rotary positions, such as DINOv3"),
    ("layer.0.attention.q_proj.weight", "rotary positions"),
    ("dist_token", "distilled DeiT"),
    ("layers.0.blocks.0.attn.relative_position_bias_table", "BEiT or Swin"),
])
def test_other_networks_are_refused_with_an_alternative(read, name, words):
  arrays = changed(
      read("timm_augreg_mae_dino"), name, np.ones(3, np.float32))
  with pytest.raises(ConfigError, match=f"{words}.*"):
    to_ours(arrays, "dino")


def test_beit_is_refused(read):
  with pytest.raises(ConfigError, match="BEiT.*take a DINOv2 or MAE"):
    to_ours(read("beit_hf"), "dinov2")


def test_a_gated_mlp_in_one_array_is_refused(read):
  arrays = read("timm_augreg_mae_dino")
  for i in (0, 1):
    name = f"blocks.{i}.mlp.fc1"
    arrays = changed(
        arrays, f"{name}.weight", np.ones((96, WIDTH), np.float32))
    arrays = changed(arrays, f"{name}.bias", np.ones(96, np.float32))
  with pytest.raises(ConfigError, match="SwiGLU in one array"):
    to_ours(arrays, "dino")


def test_an_unknown_array_is_refused_not_lost(read):
  arrays = changed(
      read("timm_augreg_mae_dino"), "blocks.0.attn.q_norm.weight",
      np.ones(8, np.float32))
  with pytest.raises(ConfigError, match="'blocks.0.attn.q_norm.weight'"):
    to_ours(arrays, "dino")


# ── What is folded, left out, said ──────────────────────────────────────────


def test_pixels_of_ours_give_what_normalised_ones_gave():
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
  bias = rng.normal(size=5).astype(np.float32)
  image_HWC = rng.uniform(-1, 1, (2, 2, 3))
  mean_C, deviation_C = base.IMAGENET
  normalised_HWC = ((image_HWC + 1) / 2 - mean_C) / deviation_C
  new_kernel, new_bias = base.fold_pixels(kernel, bias, base.IMAGENET)
  want = np.einsum("hwc,hwcd->d", normalised_HWC, kernel) + bias
  got = np.einsum("hwc,hwcd->d", image_HWC, new_kernel) + new_bias
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert new_kernel.dtype == new_bias.dtype == np.float32


def test_augreg_goes_without_its_class_token(read):
  """As in the released UViM."""
  arrays = read("timm_augreg_mae_dino")
  ours, notes = to_ours(arrays, "augreg")
  assert "params/encoder_prefix" not in ours
  np.testing.assert_array_equal(
      ours["params/pos_embedding_encoder"], arrays["params/pos_embed"][:, 1:])
  # Its pixels are ours already.
  np.testing.assert_array_equal(
      ours["params/EmbedPatches/kernel"],
      arrays["params/patch_embed.proj.weight"].transpose(2, 3, 1, 0))
  assert notes == ["not of use here: params/cls_token"]


def test_an_encoder_may_stand_anywhere_in_a_network(read):
  arrays = read("dinov2_hf")
  own, _ = to_ours(arrays, "dinov2")
  block, _ = to_ours(arrays, "dinov2", below="image_encoder/")
  assert len(own) == len(block) == 38
  for name, array in own.items():
    name = name.replace("params/", "params/image_encoder/")
    np.testing.assert_array_equal(block[name], array)


def test_what_was_done_with_positions_and_heads_is_said(read):
  _, notes = to_ours(read("siglip_hf"), "siglip", grid=(3, 7))
  text = "\n".join(notes)
  assert "resized from 4×4 to 3×7 places (bicubic)" in text
  assert "params/vision_model.head.probe" in text
  # Many names become one.
  arrays = read("clip_hf")
  for i in range(40):
    arrays[f"params/text_model.layers.{i}.weight"] = np.ones(2, np.float32)
  _, notes = to_ours(arrays, "clip")
  assert notes == ["not of use here: text_model… (40 arrays)"]


def test_networks_with_fixed_positions_take_none(read):
  ours, notes = to_ours(read("timm_siglip"), "siglip", grid=None)
  assert "params/pos_embedding_encoder" not in ours
  assert "params/pos_embed" in notes[-1]


def test_half_precision_becomes_float32(read):
  arrays = {name: array.astype(np.float16)
            for name, array in read("dinov2_hf").items()}
  ours, _ = to_ours(arrays, "dinov2")
  assert {array.dtype.name for array in ours.values()} == {"float32"}


def test_an_unusual_number_of_heads_is_told():
  found = base.Found({base.KERNEL: np.ones((2, 2, 3, 384))}, "bicubic")
  for num_heads, is_told in ((6, False), (12, True)):
    spec = EncoderSpec("dino", num_heads, None)
    assert bool(convert._notes_on_heads(found, spec)) == is_told


def test_programs_of_google_research_name_siglip_like_augreg(read):
  """The same weights as big_vision saves them, block by block or stacked."""
  want, _ = to_ours(read("siglip_hf"), "siglip")
  flax = {"params/img/MAPHead_0/probe": np.ones(3, np.float32),
          "params/txt/head/bias": np.ones(3, np.float32),
          "params/t": np.ones(1, np.float32)}
  stacked = {}
  for name, array in want.items():
    name = name.replace("params/encoder/", "params/img/Transformer/")
    name = name.replace("EmbedPatches", "img/embedding")
    name = name.replace("pos_embedding_encoder", "img/pos_embedding")
    if "encoderblock_" in name:
      both = name.replace("block_0/", "block/").replace("block_1/", "block/")
      stacked.setdefault(both, []).append(array)
    flax[name] = array
  scanned = {name: array for name, array in flax.items()
             if "encoderblock_" not in name}
  for name, blocks in stacked.items():
    scanned[name] = np.stack(blocks)
  for arrays in (flax, scanned):
    got, notes = to_ours(arrays, "siglip")
    assert got.keys() == want.keys()
    for name, array in want.items():
      np.testing.assert_array_equal(got[name], array, err_msg=name)
    assert "params/img/MAPHead_0/probe" in notes[-1]
    with pytest.raises(ConfigError, match="= 'siglip'"):
      to_ours(arrays, "augreg")


# ── Arrays that contradict each other ───────────────────────────────────────


@pytest.mark.parametrize("name, shape, words", [
    ("blocks.0.attn.qkv.weight", (71, 24), "query, key and value"),
    ("blocks.0.attn.qkv.weight", (), "is empty|query, key and value"),
    ("blocks.0.attn.proj.weight", (24,), "expected 2 axes"),
    ("patch_embed.proj.weight", (24, 3, 8), "expected 4 axes"),
    ("patch_embed.proj.weight", (24, 1, 8, 8), r"\[height, width, 3, D\]"),
    ("blocks.0.ls1.gamma", (5,), "layer scale of shape"),
    ("blocks.7.ls1.gamma", (24,), "Block 7 has a layer scale but no array"),
    ("cls_token", (1, 1, 25), "class token has shape"),
    ("reg_token", (2, 4, 24), "expected \\[1, tokens, width\\]"),
    ("pos_embed", (1, 15, 24), "15 tokens; expected a square"),
    ("pos_embed", (1, 16, 0), "is empty"),
])
def test_shapes_that_cannot_be_are_one_line(read, name, shape, words):
  arrays = read("timm_dinov2_reg4")
  array = np.ones(shape, np.float32)
  with pytest.raises(ConfigError, match=words) as caught:
    to_ours(changed(arrays, name, array), "dinov2_reg4")
  assert "\n" not in str(caught.value)


def test_the_number_of_heads_divides_the_width(read):
  with pytest.raises(ConfigError, match="num_heads = 5 does not divide"):
    to_ours(read("dinov2_hf"), "dinov2", num_heads=5)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_array_may_lack_or_have_any_shape(read, name):
  """Nothing but ConfigErrors, whatever is wrong."""
  arrays = read(name)
  family = sorted(FAMILIES[name])[0]
  wanted, _ = to_ours(arrays, family)
  spec = EncoderSpec(family, HEADS, (4, 4))
  shapes = [(), (0,), (1,), (24,), (24, 24), (3, 24, 2), (1, 2, 3, 4, 5)]
  for i, lost in enumerate(arrays):
    rest = {other: array for other, array in arrays.items() if other != lost}
    shape = shapes[i % len(shapes)]
    bent = arrays | {lost: np.ones(shape, np.float32)}
    for bad in (rest, bent):
      naming = convert.recognise(bad)
      if naming is None:
        continue
      try:
        ours, _ = convert.to_ours(naming, bad, spec)
        convert.check_sizes(ours, wanted, spec)
      except ConfigError as error:
        assert "\n" not in str(error)
