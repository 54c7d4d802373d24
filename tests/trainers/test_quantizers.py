"""Stage I trains with every quantizer, and stage II reads its codes."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.trainers import tiny
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files

FSQ = dict(quantizer="fsq", dict_size=20, codeword_dim=2, levels=(4, 5))
LFQ = dict(quantizer="lfq", dict_size=8, codeword_dim=3)
# Three steps from seed 0 on one device: loss, gradient norm.
GOLDEN = {
    "fsq": [[2.995729, 0.161695], [2.994904, 0.163826], [2.996602, 0.169936]],
    "lfq": [[2.839246, 10.034195], [2.80356, 2.275826], [2.81662, 1.530926]],
}


@pytest.mark.parametrize("fields", [FSQ, LFQ], ids=["fsq", "lfq"])
def test_golden_steps(fields):
  config = tiny.stage_i_config(fields, optax={"dtype_momentum": "float32"})
  family = VqvaeFamily(config)
  state, logs = tiny.run(family, mesh=[("data", 1)])
  losses = [log["loss"] for log in logs]
  norms = [log["grad_norm"] for log in logs]
  golden_losses, golden_norms = zip(*GOLDEN[fields["quantizer"]], strict=True)
  np.testing.assert_allclose(losses, golden_losses, rtol=1e-5)
  # The entropy of LFQ is steep: rounding shows in its gradient.
  np.testing.assert_allclose(norms, golden_norms, rtol=5e-3)
  # There is nothing that it learns but its parameters.
  assert "state" not in state.extra
  assert state.extra["usage"].shape == (fields["dict_size"],)


def test_stage_ii_reads_the_codes_of_an_oracle_without_a_codebook(tmp_path):
  path = str(tmp_path / "oracle.npz")
  stage_i = VqvaeFamily(tiny.stage_i_config(FSQ))
  rng = np.random.default_rng(0)
  files.save_npz(path, jax.tree.map(
      lambda array: rng.normal(size=array.shape).astype(array.dtype),
      stage_i.wanted_arrays()))
  config = tiny.stage_ii_config(path, {"vocab_size": 20 + 1})
  oracle = dataclasses.replace(
      config.oracle, model=tiny.stage_i_model(**FSQ))
  family = LmFamily(dataclasses.replace(config, oracle=oracle))
  frozen = tiny.open_family(family).frozen
  codes = np.asarray(jax.jit(family.targets)(frozen, tiny.batch()))
  assert codes.min() >= 0 and codes.max() < 20
  assert len(np.unique(codes)) > 3
