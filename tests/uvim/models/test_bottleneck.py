"""The ways between patches and the places of a code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.uvim.models.test_vit import make, random_params
from uvim.models import known_fields
from uvim.models.bottleneck import BOTTLENECKS
from uvim.registry import ConfigError

# 4 × 2 patches; a length that is no square, and not theirs.
NUM_PATCHES = 8
LENGTH = 6


class Latent:
  """A model with latent tokens, compiled, and a batch."""

  def __init__(self):
    self.model = make(bottleneck="latent", code_len=LENGTH)
    self.params = random_params(self.model)
    rng = np.random.default_rng(0)
    self.x = {"seg": rng.integers(0, 3, (2, NUM_PATCHES, 16))}
    self.ctx = rng.uniform(-1, 1, (2, 16, 8, 3)).astype(np.float32)
    self.z_BLE = rng.normal(size=(2, LENGTH, 6)).astype(np.float32)
    network = self.model.vit
    self._encode = jax.jit(lambda params, x, ctx: network.apply(
        {"params": params}, x, ctx, method="encode"))
    self._decode = jax.jit(lambda params, z_BLE, ctx: network.apply(
        {"params": params}, z_BLE, ctx, method="decode")["seg"])

  def encode(self, x=None, **changes):
    x = self.x if x is None else x
    return self._encode(self.params | changes, x, self.ctx)

  def decode(self, z_BLE=None, **changes):
    z_BLE = self.z_BLE if z_BLE is None else z_BLE
    return self._decode(self.params | changes, z_BLE, self.ctx)


@pytest.fixture(scope="module")
def latent():
  return Latent()


def test_each_latent_token_asks_for_itself(latent):
  """The vectors follow their tokens; the patches do not tell them apart."""
  order = np.array([3, 0, 5, 1, 4, 2])
  tokens_1LD = latent.params["latent_tokens"]
  moved = latent.encode(latent_tokens=tokens_1LD[:, order])
  np.testing.assert_allclose(moved, latent.encode()[:, order], atol=1e-5)
  # Equal tokens know no place.
  same_1LD = jnp.broadcast_to(tokens_1LD[:, :1], tokens_1LD.shape)
  vectors = latent.encode(latent_tokens=same_1LD)
  np.testing.assert_allclose(vectors, vectors[:, :1].repeat(LENGTH, 1),
                             atol=1e-5)


def test_a_word_means_something_by_its_own_position(latent):
  order = np.array([3, 0, 5, 1, 4, 2])
  name = "latent_token_positional_embedding"
  positions_1LD = latent.params[name]
  before = latent.decode()
  words_alone = latent.decode(latent.z_BLE[:, order])
  both = latent.decode(
      latent.z_BLE[:, order], **{name: positions_1LD[:, order]})
  assert np.abs(words_alone - before).max() > 1e-3
  np.testing.assert_allclose(both, before, atol=1e-4)


def test_every_patch_of_the_label_reaches_every_latent_word(latent):
  before = latent.encode()
  for patch in range(NUM_PATCHES):
    ids = latent.x["seg"].copy()
    ids[:, patch] = (ids[:, patch] + 1) % 3
    changed = np.abs(latent.encode({"seg": ids}) - before).max(axis=-1)
    assert (changed > 0).all(), patch


def test_every_latent_word_reaches_every_patch(latent):
  before = latent.decode()
  # One token for each patch, none for the words.
  assert before.shape == (2, NUM_PATCHES, 3, 16)
  for place in range(LENGTH):
    z_BLE = latent.z_BLE.copy()
    z_BLE[:, place] = 0
    changed = np.abs(latent.decode(z_BLE) - before).max(axis=(-1, -2))
    assert (changed > 0).all(), place


def test_which_bottlenecks_have_a_grid():
  grids = {name: make(bottleneck=name).grid for name in BOTTLENECKS}
  assert grids == {"resize": (2, 2), "linear": None, "latent": None}


@pytest.mark.parametrize("name", ["linear", "latent"])
def test_any_length_goes_without_a_grid(name):
  assert make(code_len=LENGTH, bottleneck=name).spec.length == LENGTH


@pytest.mark.parametrize("fields,message", (
    (dict(code_len=6), "code_len = 6.*square.*'linear' and 'latent'"),
    (dict(code_len=6, code_grid=(2, 4)),
     r"code_grid = \(2, 4\) has 8 places; code_len = 6"),
    (dict(code_len=6, code_grid=(2, 3), bottleneck="latent"),
     r"code_grid = \(2, 3\): with bottleneck 'latent' the words lie on no"),
    (dict(bottleneck="latents"), "bottleneck = 'latents'.*Did you mean"),
    (dict(bottleneck="latent", bottleneck_resize=False),
     "bottleneck_resize is the old name.*both.*'latent'"),
    (dict(bottleneck_resize="no"), "bottleneck_resize = 'no'.*True or False"),
))
def test_what_does_not_fit_is_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    make(**fields)


@pytest.mark.parametrize("old,new", [(True, "resize"), (False, "linear")])
def test_an_old_config_means_what_it_meant(old, new):
  assert make(bottleneck_resize=old) == make(bottleneck=new)
  # It is listed by the name that it has.
  block = {"bottleneck_resize": old}
  known = known_fields("vit", block, "config.model")
  assert "bottleneck_resize" in known and "bottleneck" not in known
  assert block == {"bottleneck_resize": old}


def test_bfloat16_goes_through_latent_tokens():
  model = make(bottleneck="latent", code_len=LENGTH, dtype="bfloat16")
  arrays = jax.eval_shape(model.init, jax.random.key(0))
  z_BLE = jnp.zeros((2, LENGTH, 6))
  ctx = jnp.zeros((2, 16, 8, 3))
  logits = jax.eval_shape(model.base_model, arrays, z_BLE, ctx)["seg"]
  assert logits.dtype == jnp.bfloat16
