"""The quantizers against the original implementations."""

import jax
import pytest

from tools.parity import __main__ as parity
from tools.parity import common


@pytest.fixture(scope="module")
def verdicts(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other quantizers")
  with jax.default_matmul_precision("highest"):
    return list(parity.compare(folder, "^(fsq|lfq|vq_losses)"))


def test_words_vectors_losses_and_gradients_are_those_of_the_original(verdicts):
  statuses = [verdict.status for verdict in verdicts]
  assert statuses.count(common.PASS) == 69 + 44
  assert statuses.count(common.FAIL) == 0
  assert statuses.count(common.NOT_COMPARED) == 0


def test_two_levels_are_refused_in_words(verdicts):
  refused = [verdict for verdict in verdicts if "/2x3/" in verdict.name]
  assert refused
  for verdict in refused:
    assert "two levels are not possible" in verdict.note
