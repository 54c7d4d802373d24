"""Pretrained encoders and positions against their originals."""

import jax
import pytest

from tools.parity import __main__ as parity
from tools.parity import common, encoders


@pytest.fixture(scope="module")
def folder(shared):
  folder = shared / "fixtures_codes" / "dev"
  if not folder.is_dir():
    pytest.skip("skipped: no fixtures of other encoders")
  return folder


def judged(folder, pattern):
  with jax.default_matmul_precision("highest"):
    return list(parity.compare(folder, pattern))


# One of each naming; `python -m tools.parity` runs all.
@pytest.mark.parametrize("name", ["timm_clip", "vit_dino_hf", "position"])
def test_all_is_as_in_the_original(folder, name):
  verdicts = judged(folder, name)
  assert len(verdicts) > 2
  assert {verdict.status for verdict in verdicts} == {common.PASS}


def test_what_is_refused_is_told_and_fails_nothing(folder):
  verdicts = judged(folder, "beit")
  assert {verdict.status for verdict in verdicts} == {common.INFORMATIVE}
  assert all("refused: This is BEiT" in verdict.note for verdict in verdicts)


def test_real_weights_are_compared_only_if_they_are_there(
    folder, monkeypatch):
  monkeypatch.delenv(encoders.REAL_FILE, raising=False)
  verdicts = judged(folder, "real_dinov2")
  assert {verdict.status for verdict in verdicts} == {common.NOT_COMPARED}
  assert all(encoders.REAL_FILE in verdict.note for verdict in verdicts)
