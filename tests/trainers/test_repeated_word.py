"""A run of stage II whose language model writes one word: who is told.

Which scores raise the alarm, and which do not: tests/trainers/report.
"""

import json

from configs import lm_rooms_depth, vqvae_rooms_depth
from tests.tools.conftest import save_noise
from tests.trainers.report.runs import PageReader
from trainers import loop
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from uvim import files
from uvim.config import resolve
from uvim.store import checkpoint

STEPS = 2
WORD = 3


def make_config(module, data_dir):
  """A config that changes no parameter in its few steps."""
  config = module.get_config("tiny")
  config.data_dir = str(data_dir)
  config.mesh = [("data", 1)]
  config.val_split = None
  config.total_steps = STEPS
  config.lr = 0.0
  return config


def run(folder, data_dir):
  """Runs stage II with a bias to one word; returns its workdir."""
  stage_i = make_config(vqvae_rooms_depth, data_dir)
  one = folder / "one.npz"
  save_noise(VqvaeFamily(resolve(stage_i)), one)

  config = make_config(lm_rooms_depth, data_dir)
  config.oracle.model_init = str(one)
  config.uvim.pred_kw.temperature = 1.0
  with config.model.unlocked():
    config.model.words_per_pass = 4
  start = folder / "lm.npz"
  save_noise(LmFamily(resolve(config)), start)
  arrays = checkpoint.load_params(start)
  logits = arrays["params"]["decoder"]["LogitsDense"]
  logits["bias"][WORD + 1] += 100
  files.save_npz(start, arrays)
  with config.ignore_type():
    config.model_init = str(start)
  workdir = folder / "run"
  loop.train(resolve(config), workdir)
  return workdir


def read_alarms(workdir):
  """({name of a score: number}, {name of an alarm: its figure})."""
  scores, found = {}, {}
  for line in (workdir / "metrics.jsonl").read_text().splitlines():
    for name, value in json.loads(line).items():
      if name.startswith("alarm/"):
        found[name.removeprefix("alarm/")] = value
      scores[name] = value
  return scores, found


def test_a_language_model_that_repeats_a_word_is_told(
    rooms_tiny_dir, tmp_path, capsys):
  workdir = run(tmp_path, rooms_tiny_dir)
  scores, found = read_alarms(workdir)
  assert scores["uvim/words_per_code"] == 1
  assert scores["oracle_code/words_per_code"] > 3
  # What the pass before drew is a good guess then: all but the first pass of
  # each code draws four words.
  assert 3 < scores["uvim/words_per_pass"] <= 4
  assert "oracle_code/words_per_pass" not in scores
  assert "zero_code/words_per_code" not in scores
  assert found["repeated_word"] == 1
  # For these weights such a code happens to be a little worse than none, which
  # by a squared error is no alarm.
  assert scores["uvim/RMSE"] > scores["zero_code/RMSE"]
  assert "below_no_code" not in found
  # The codebook is hardly in use, but frozen.
  assert "codebook_collapse" not in found
  error = capsys.readouterr().err
  assert "ALARM, repeated word: uvim/words_per_code is 1, " in error
  assert error.splitlines()[-1].startswith(
      "ALARMS of this run: repeated word, last at step 2")
  words = "".join(PageReader((workdir / "report.html").read_text()).words)
  assert "Alarm: repeated word (1 at step 2). Sample at temperature" in words
  assert "(RMSE: no code " in words
