"""Schedules and decodings of masked prediction, as the original has them."""

import jax
import pytest

from tools.parity import __main__ as parity
from tools.parity import common


def test_schedules_and_every_step_of_a_decoding_are_those_of_the_original(
    shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of masked prediction")
  with jax.default_matmul_precision("highest"):
    verdicts = list(parity.compare(folder, "^maskgit"))
  passed = {verdict.name for verdict in verdicts
            if verdict.status == common.PASS}
  assert len(passed) == len(verdicts)
  for name in ("schedule/256/cosine", "schedule/36/log",
               "trajectory0/mask_len", "trajectory1/final"):
    assert f"maskgit/{name}" in passed
