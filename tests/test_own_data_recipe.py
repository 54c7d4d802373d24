"""docs/data.md, "A config for your data": its recipe is a config."""

import pathlib
import re

import pytest

from trainers import config_file
from trainers.report import pairs
from uvim import config as config_lib

TEXT = (pathlib.Path(__file__).parents[1] / "docs" / "data.md").read_text()


def recipes():
  """Family → source of its config, as the text tells to write it."""
  _, _, section = TEXT.partition("\n## A config for your data\n")
  section, _, _ = section.partition("\n## ")
  stage_i, more = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  stage_ii = stage_i.replace("vqvae_coco_panoptic", "lm_coco_panoptic")
  stage_ii = stage_ii.replace("pp_strings(res)", "pp_strings(res, res)")
  stage_ii = stage_ii.replace("config.model", "config.oracle.model")
  stage_ii = stage_ii.replace("  return config\n", f"{more}  return config\n")
  return {"vqvae": stage_i, "lm": stage_ii}


@pytest.mark.parametrize("kind,predictions", [
    ("vqvae", {"panoptic_val": "predict", "zero_code": "zero_code"}),
    ("lm", {"panoptic_val": "predict", "zero_code": "zero_code",
            "oracle_code": "oracle"})])
def test_it_scores_what_a_score_is_compared_with(
    tmp_path, kind, predictions):
  path = tmp_path / "mine.py"
  path.write_text(recipes()[kind])
  config = config_lib.resolve(config_file.load_config(str(path), []))
  assert config.kind == kind
  found = {}
  evals = []
  for item in config.evals:
    evals.append(vars(item))
    if item.type == "coco_panoptic":
      found[item.name] = item.pred
      assert item.split == "validation"
  assert found == predictions
  if kind == "lm":
    for other in (pairs.ORACLE, pairs.NO_CODE):
      assert len(pairs.pairs_of(evals, other)) == 1
    oracle, = [item for item in config.evals if item.pred == "oracle"]
    assert '"labels"' in oracle.pp
