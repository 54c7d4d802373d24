"""GIVT: densities, both stages and lists of names, as the original has them."""

import jax
import pytest

from tools.parity import __main__ as parity
from tools.parity import common


@pytest.fixture(scope="module")
def folder(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of GIVT")
  return folder


def test_every_quantity_is_that_of_the_original(folder):
  with jax.default_matmul_precision("highest"):
    verdicts = list(parity.compare(folder, "^givt"))
  passed = {verdict.name for verdict in verdicts
            if verdict.status == common.PASS}
  assert len(passed) == len(verdicts)
  for name in ("pdf/joint/fixed_square_plus/log_prob/both", "vae/plain/loss",
               "vae/grad/embedding_instances/kernel", "givt/nll",
               "givt/means_fed_back", "masked/nll", "bottom_k/mask"):
    assert f"givt/{name}" in passed


@pytest.mark.parametrize("file", ["stage2", "vae_nyu_depth_scan"])
def test_published_files_have_the_names_of_our_models(folder, file):
  (verdict,) = parity.compare(folder, f"^param_tree_givt_{file}.txt")
  assert verdict.status == common.PASS
