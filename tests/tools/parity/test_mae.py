"""The masked autoencoder against the original implementation."""

import jax
import pytest

from tools.parity import __main__ as parity
from tools.parity import common


@pytest.fixture(scope="module")
def verdicts(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other encoders")
  with jax.default_matmul_precision("highest"):
    return list(parity.compare(folder, "enc_vit_mae"))


def test_masks_predictions_losses_and_gradients_are_those_of_the_original(
    verdicts):
  failed = [verdict for verdict in verdicts if verdict.status == common.FAIL]
  assert not failed
  passed = {verdict.name for verdict in verdicts
            if verdict.status == common.PASS}
  for name in ("mask", "ids_restore", "pred", "target", "features",
               "plain/loss", "norm_pix/loss"):
    assert f"enc_vit_mae_hf/{name}" in passed
  assert sum("/grad/" in name for name in passed) > 100
