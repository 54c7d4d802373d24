"""Diffusion over analog bits against the original implementation."""

import pytest

from tools.parity import __main__ as parity
from tools.parity import common

# File → how many quantities it has.
EXPECTED = {
    "bits": 24,
    "schedules": 11,
    "corruption": 6,
    "steps": 8 * (6 + 4 + 2),
    "loss": 57,
    "postprocess": 6,
    "preprocess": 6,
    "optimizer": 25,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_all_is_as_in_the_original(shared, name):
  folder = shared / "fixtures_pix2seq_d" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of Pix2Seq-D")
  verdicts = list(parity.compare(folder, f"^{name}\\."))
  bad = [verdict for verdict in verdicts if verdict.status != common.PASS]
  assert not bad
  assert len(verdicts) == EXPECTED[name]
