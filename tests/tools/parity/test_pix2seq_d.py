"""Pix2Seq-D's network and sampling, as the original has them."""

import pytest

from tools.parity import __main__ as parity
from tools.parity import common

# A quantity of each fixture that must be among those compared.
COMPARED = {
    "encoder": "encoder/eval/encoded",
    "transunet_b": "transunet_b/grad/denoiser/conv_in/kernel",
    "trajectory": "trajectory/4/final",
    "video": "video/out",
}


@pytest.mark.parametrize("name", COMPARED)
def test_every_quantity_is_that_of_the_original(shared, name):
  folder = shared / "fixtures_pix2seq_d" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of Pix2Seq-D")
  verdicts = list(parity.compare(folder, f"^{name}"))
  passed = set()
  for verdict in verdicts:
    # The original's training mode has batch norms, which are not ported.
    if "/train/" not in verdict.name:
      assert verdict.status == common.PASS, verdict
      passed.add(verdict.name)
  assert COMPARED[name] in passed
