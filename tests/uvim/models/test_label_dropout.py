"""Label dropout: what the oracle loses, and what the loss does not."""

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.vqvae import VqvaeFamily
from uvim.models import label_dropout
from uvim.registry import ConfigError


def test_each_example_loses_patches_of_its_own():
  rngs_B = jax.random.split(jax.random.key(0), 64)
  x = {"ids": np.ones((64, 10, 3), np.int32),
       "numbers": np.ones((64, 10, 2, 3), np.float32)}
  drop_labels = jax.jit(label_dropout.drop_labels, static_argnums=2)
  got = drop_labels(x, rngs_B, 0.25)
  lost_BN = np.asarray(got["ids"] == -1).all(-1)
  assert (lost_BN.sum(1) == 3).all()  # 2.5, rounded up.
  # Both quantities lose the same patches, and all of a patch.
  np.testing.assert_array_equal(
      got["ids"], np.where(lost_BN[..., None], -1, x["ids"]))
  np.testing.assert_array_equal(
      got["numbers"], np.where(lost_BN[..., None, None], 0, x["numbers"]))
  # Every place is lost about as often: 19 of 64, ± four deviations.
  assert np.abs(lost_BN.sum(0) - 19.2).max() < 15
  # An example does not depend on the others.
  alone = label_dropout.draw_patches(rngs_B[5:6], 10, 0.25)
  np.testing.assert_array_equal(alone[0], lost_BN[5])


def test_the_oracle_loses_labels_and_the_loss_does_not():
  batch = tiny.batch()
  # A family that hides all: the oracle's code cannot depend on the labels.
  family = VqvaeFamily(tiny.stage_i_config({"label_dropout": 0.99}))
  params, extra = jax.jit(family.init)(jax.random.key(0))
  # At first the heads are zeros, and every label costs the same.
  heads = {key: jax.tree.map(lambda x: x + np.arange(x.size).reshape(x.shape),
                             params[key])
           for key in ("head_semantics", "head_instances")}
  params = params | heads
  rngs_B = jax.random.split(jax.random.key(1), 8)

  @jax.jit
  def loss_of(batch):
    loss, report = family.loss(params, extra, None, batch, rngs_B, 0)
    return loss, report.stats

  loss, stats = loss_of(batch)
  other_labels = {**batch, "labels": (batch["labels"] + 1) % tiny.INSTANCES}
  other_loss, other_stats = loss_of(other_labels)
  for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(other_stats),
                  strict=True):
    np.testing.assert_array_equal(a, b)
  assert loss != other_loss


def test_a_share_that_cannot_be():
  with pytest.raises(ConfigError, match="label_dropout = 1.0; it must be a"):
    VqvaeFamily(tiny.stage_i_config({"label_dropout": 1.0}))
