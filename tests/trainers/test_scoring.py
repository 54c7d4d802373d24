"""What somebody may change in the evaluators of a trained run."""

import types

import pytest

from trainers import scoring
from uvim.config import EvalConfig
from uvim.registry import ConfigError


def make_block(**fields):
  return EvalConfig(
      name="uvim", type="nyu_depth", dataset="rooms", split="validation",
      pp="", batch_size=8, log_steps=0, **fields)


def test_a_run_is_scored_by_a_measure_that_its_config_does_not_name():
  block = make_block(
      pred_kw={"temperature": 0.0}, options={"crop": "none"})
  changes = {"type": "depth_samples", "pred": "samples", "temperature": 1.0,
             "num_pairs": 5}
  found = scoring.changed(block, changes, ["temperature", "num_samples"])
  assert (found.type, found.pred) == ("depth_samples", "samples")
  assert found.pred_kw == {"temperature": 1.0}
  assert found.options == {"crop": "none", "num_pairs": 5}


def test_another_measure_does_not_use_a_place_that_nobody_named(tmp_path):
  block = make_block(options={"save_dir": str(tmp_path / "theirs")})
  config = types.SimpleNamespace(evals=[block])
  changes = {"type": "save_predictions"}
  # The evaluator that the config names writes nothing there.
  scoring.check_places("run", config, None, {})
  with pytest.raises(ConfigError, match="theirs as save_dir"):
    scoring.check_places("run", config, None, changes)
  changes["save_dir"] = str(tmp_path / "mine")
  scoring.check_places("run", config, None, changes)
