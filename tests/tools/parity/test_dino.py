"""DINO's loss against the original implementation."""

import pytest

from tools.parity import __main__ as parity
from tools.parity import common


def test_loss_gradient_and_center_are_those_of_the_original(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other encoders")
  verdicts = list(parity.compare(folder, "dino_loss"))
  assert len(verdicts) == 9
  assert {verdict.status for verdict in verdicts} == {common.PASS}
