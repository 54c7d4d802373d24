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
OF_NAME = {
    "fsq": FSQ,
    "lfq": LFQ,
    "vq_gradient": dict(quantizer="vq_gradient", use_l2_norm=True,
                        entropy_loss_weight=0.1),
    "residual": dict(quantizer="residual", num_quantizers=2),
    "gumbel": dict(quantizer="gumbel", codeword_dim=6, tau_steps=2,
                   kl_steps=2),
}
# Three steps from seed 0 on one device: loss, gradient norm.
GOLDEN = {
    "fsq": [[2.995729, 0.161695], [2.994904, 0.163826], [2.996602, 0.169936]],
    "lfq": [[2.839246, 10.034195], [2.80356, 2.275826], [2.81662, 1.530926]],
    "vq_gradient": [
        [3.011542, 0.438068], [2.978804, 0.923563], [2.992028, 0.36552]],
    "residual": [
        [5.205423, 1.805101], [4.57738, 1.587064], [4.064647, 0.895086]],
    "gumbel": [
        [2.995729, 0.15522], [3.001784, 0.165863], [3.005986, 0.170625]],
}


@pytest.mark.parametrize("name", OF_NAME)
def test_golden_steps(name):
  config = tiny.stage_i_config(
      OF_NAME[name], optax={"dtype_momentum": "float32"})
  family = VqvaeFamily(config)
  state, logs = tiny.run(family, mesh=[("data", 1)])
  losses = [log["loss"] for log in logs]
  norms = [log["grad_norm"] for log in logs]
  golden_losses, golden_norms = zip(*GOLDEN[name], strict=True)
  np.testing.assert_allclose(losses, golden_losses, rtol=1e-5)
  # The entropy of LFQ is steep: rounding shows in its gradient.
  np.testing.assert_allclose(norms, golden_norms, rtol=5e-3)
  # There is nothing that it learns but its parameters.
  assert "state" not in state.extra
  num_entries = family.model.spec.num_entries
  assert state.extra["usage"].shape == (num_entries,)


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
