"""When a run warns, of what, and when it keeps quiet."""

import json

import numpy as np
import pytest

from evaluators import EVALUATORS, HEADLINES
from tests.trainers.report import runs
from trainers.report import alarm_kinds, alarms, pairs, run_files, watches

STAGE_I = dict(kind="vqvae", evals=[
    runs.evaluator("oracle_code"),
    runs.evaluator("zero_code", pred="zero_code")])
STAGE_II = dict(
    kind="lm", oracle=dict(model=dict(code_len=64)), evals=[
        runs.evaluator("val", type="mean", pred="loss"),
        runs.evaluator("uvim"),
        runs.evaluator("oracle_code", pred="oracle"),
        runs.evaluator("zero_code", pred="zero_code")])


def alarms_of(reports, watch=None):
  """[(step, name), …] of every alarm over reports [(step, values), …]."""
  if watch is None:
    watch = alarms.Alarms(STAGE_II, 1000)
  raised = []
  for step, values in reports:
    for alarm in watch.see(step, values):
      raised.append((step, alarm.name))
  return raised


def stage_i_alarms():
  return alarms.Alarms(STAGE_I, 1000)


def usage_reports(values, every=20, start=0):
  reports = []
  for index, value in enumerate(values):
    step = start + index * every
    reports.append((step, {"train/code/usage": value}))
  return reports


def test_collapse_is_told_after_the_warm_up_and_not_at_every_report():
  raised = alarms_of(usage_reports([0.04] * 30), stage_i_alarms())
  assert raised[0] == (100, "codebook_collapse")  # A tenth of the run.
  # And once in each further tenth.
  assert [step for step, _ in raised] == [100, 200, 300, 400, 500]


def test_usage_that_starts_anew_in_each_epoch_is_no_collapse():
  healthy = [0.02, 0.2, 0.6, 0.9]
  reports = usage_reports(healthy * 10, start=200)
  assert not alarms_of(reports, stage_i_alarms())
  poor = [0.02, 0.1, 0.2, 0.24]
  reports = usage_reports(poor * 10, start=200)
  assert alarms_of(reports, stage_i_alarms())


def test_a_frozen_codebook_is_no_matter_of_stage_ii():
  """Nothing that one could change there would help."""
  reports = usage_reports([0.04] * 30)
  assert not alarms_of(reports)
  # The config of an older run does not name its kind.
  without_kind = {"oracle": {"task": "depth"}}
  assert not alarms_of(reports, alarms.Alarms(without_kind, 1000))
  assert alarms_of(reports, alarms.Alarms({"task": "depth"}, 1000))


def test_collapse_says_how_much_is_used():
  watch = alarms.Alarms(STAGE_I, 100)
  raised = []
  for step in (50, 51, 52):
    raised += watch.see(step, {"train/code/usage": 0.031})
  alarm, = raised
  assert alarm.figure == 0.031
  assert "3.1%" in alarm.message and "\n" not in alarm.message


@pytest.mark.parametrize("model, advice, is_about_splitting", [
    ({"dict_size": 8}, "model.dict_splitting", True),
    ({"quantizer": "fsq"}, "model.levels", False),
    ({"quantizer": "gumbel"}, "model.kl_weight", False),
    ({"quantizer": "of tomorrow"}, "model.dict_size", False)])
def test_the_advice_is_for_the_quantizer(model, advice, is_about_splitting):
  watch = alarms.Alarms(dict(STAGE_I, model=model), 100)
  for step in (50, 51, 52):
    raised = watch.see(step, {"train/code/usage": 0.031})
  alarm, = raised
  assert advice in alarm.message
  assert ("splitting" in alarm.message) == is_about_splitting


def score_reports(gaps, sign=-1):
  """Evaluations at steps 100, 200, …: first UViM's line, then the oracle's."""
  oracle = 40.0
  reports = []
  for index, gap in enumerate(gaps):
    step = 100 * (index + 1)
    lm = oracle + sign * gap
    reports.append((step, {"uvim/PQ": lm, "uvim/SQ": 0.0}))
    reports.append(
        (step, {"oracle_code/PQ": oracle, "oracle_code/SQ": 99.0}))
  return reports


@pytest.mark.parametrize("sign", [-1, 1])  # PQ, or an error such as RMSE.
def test_a_gap_that_widens(sign):
  assert not alarms_of(score_reports([30, 20, 10, 10, 12], sign))
  wider = score_reports([30, 20, 10, 15], sign)
  assert alarms_of(wider) == [(400, "oracle_gap")]


def test_a_tiny_gap_may_double():
  assert not alarms_of(score_reports([0.2, 0.4, 0.8]))


def test_the_order_of_the_evaluators_does_not_matter():
  reports = score_reports([10, 20])
  swapped = [reports[index] for index in (1, 0, 3, 2)]
  assert alarms_of(reports) == [(200, "oracle_gap")]
  assert alarms_of(swapped) == [(200, "oracle_gap")]


def test_only_scores_of_the_same_step_are_compared():
  both_fell = [(100, {"uvim/PQ": 39.0}), (100, {"oracle_code/PQ": 40.0}),
               (200, {"uvim/PQ": 20.0}), (200, {"oracle_code/PQ": 21.0})]
  assert not alarms_of(both_fell)


def loss_reports(train_losses, val_losses):
  """Ten training reports at each loss, then one of unseen data."""
  reports = []
  losses = zip(train_losses, val_losses, strict=True)
  for index, (train_loss, val_loss) in enumerate(losses):
    step = 100 * index
    for more in range(10):
      reports.append((step + more, {"train/loss": train_loss}))
    reports.append((step + 10, {"val/loss": val_loss}))
  return reports


def test_overfitting_is_a_loss_that_rises_on_unseen_data_alone():
  falling = [3, 2, 1]
  raised = alarms_of(loss_reports(falling, [3.0, 2.5, 2.7]))
  assert raised == [(210, "overfitting")]
  noise = loss_reports(falling, [3.0, 2.5, 2.55])
  assert not alarms_of(noise)
  both_rise = loss_reports([3, 2, 2.5], [3.0, 2.5, 2.9])
  assert not alarms_of(both_rise)


def test_pairs_are_the_evaluators_that_differ_in_the_code_alone():
  lm = runs.evaluator("uvim")
  oracle = runs.evaluator("oracle_code", pred="oracle")
  zero = runs.evaluator("zero", pred="zero_code")
  train = runs.evaluator("train", split="train")
  evals = [lm, oracle, zero, train]
  assert pairs.pairs_of(evals, pairs.ORACLE) == [("uvim/", "oracle_code/")]
  assert pairs.pairs_of(evals, pairs.NO_CODE) == [("uvim/", "zero/")]
  stage1 = [runs.evaluator("oracle_code")]
  assert not pairs.pairs_of(stage1, pairs.ORACLE)
  without_prefix = lm | {"prefix": ""}
  assert not pairs.pairs_of([without_prefix, oracle], pairs.ORACLE)
  same_prefix = lm | {"prefix": oracle["prefix"]}
  assert not pairs.pairs_of([same_prefix, oracle], pairs.ORACLE)


# ── The language model against no code ──────────────────────────────────────


def no_code_reports(metric, lm, without, step=500):
  """An evaluation: first UViM's line, then the one without a code."""
  return [(step, {f"uvim/{metric}": lm, "uvim/words_per_code": 9.0}),
          (step, {f"zero_code/{metric}": without})]


@pytest.mark.parametrize("metric,better,worse", [
    ("PQ", 9.6, 7.4), ("RMSE", 0.26, 0.5), ("PSNR", 22.3, 19.0),
    ("FID", 12.0, 30.5), ("FID_5k", 12.0, 30.5), ("mean_angle", 13.8, 30.0)])
def test_below_no_code_in_the_direction_of_each_score(metric, better, worse):
  below = no_code_reports(metric, lm=worse, without=better)
  assert alarms_of(below) == [(500, "below_no_code")]
  # In whichever order they report.
  assert alarms_of(below[::-1]) == [(500, "below_no_code")]
  assert not alarms_of(no_code_reports(metric, lm=better, without=worse))
  assert not alarms_of(no_code_reports(metric, lm=better, without=better))


@pytest.mark.parametrize("metric,lm,without", [
    ("RMSE", 0.72, 0.65), ("PSNR", 21.0, 22.3), ("mean_angle", 20.5, 13.8)])
def test_one_answer_may_be_worse_than_the_mean_of_all(metric, lm, without):
  """As by squared errors it is, in a run without any fault."""
  assert not alarms_of(no_code_reports(metric, lm=lm, without=without))


@pytest.mark.parametrize("seed", range(3))
def test_a_random_answer_is_no_worse_than_is_allowed(seed):
  """Truth and answer are drawn from one distribution, `mean` is its mean."""
  rng = np.random.default_rng(seed)
  mean = rng.normal(size=1000)
  truth, answer = mean + rng.normal(size=(2, 200, 1000))
  error = np.sqrt(np.mean((answer - truth) ** 2))
  without = np.sqrt(np.mean((mean - truth) ** 2))
  # Nearly as much as is allowed.
  assert not watches.is_below("RMSE", 0.99 * error, without)
  assert watches.is_below("RMSE", 1.01 * error, without)
  decibels = -20 * np.log10(error)
  decibels_without = -20 * np.log10(without)
  assert not watches.is_below("PSNR", decibels + 0.1, decibels_without)
  assert watches.is_below("PSNR", decibels - 0.1, decibels_without)


def test_below_no_code_says_both_scores():
  watch = alarms.Alarms(STAGE_II, 1000)
  raised = []
  for step, values in no_code_reports("PQ", lm=7.4, without=9.6):
    raised += watch.see(step, values)
  alarm, = raised
  assert alarm.figure == 7.4
  assert alarm.message.startswith(
      "below no code: uvim/PQ is 7.4, without any code 9.6. ")
  assert "\n" not in alarm.message


def test_a_language_model_has_time_to_learn():
  early = no_code_reports("PQ", lm=7.4, without=9.6, step=200)
  assert not alarms_of(early)
  assert alarms_of(no_code_reports("PQ", lm=7.4, without=9.6, step=250))


def test_below_no_code_needs_one_step_one_measure_and_two_evaluators():
  lm, without = no_code_reports("PQ", lm=7.4, without=9.6)
  assert not alarms_of([lm])
  later = (600, without[1])
  assert not alarms_of([lm, later])
  # A score of which nobody knows the direction.
  assert not alarms_of(no_code_reports("taste", lm=7.4, without=9.6))
  on_other_data = dict(STAGE_II, evals=[
      runs.evaluator("uvim"),
      runs.evaluator("zero_code", pred="zero_code", split="train")])
  watch = alarms.Alarms(on_other_data, 1000)
  assert not alarms_of([lm, without], watch)


def test_in_stage_i_nobody_compares_with_a_language_model():
  # There "predict" is the oracle's code.
  reports = [(500, {"oracle_code/PQ": 7.4, "oracle_code/words_per_code": 1.0}),
             (500, {"zero_code/PQ": 9.6})]
  assert not alarms_of(reports, stage_i_alarms())


def test_every_evaluator_with_a_truth_has_a_headline():
  """Whoever adds an evaluator thinks of it."""
  without = {"mean", "save_predictions"}
  names = {name for name in EVALUATORS if "." not in name}
  assert names - without == {
      "coco_panoptic", "nyu_depth", "depth_samples", "psnr", "normals",
      "coltran_fid", "davis", "stq"}
  assert set(HEADLINES) == {
      "PQ", "JF", "STQ", "RMSE", "energy", "PSNR", "mean_angle", "FID",
      "FID_5k"}


# ── One word, again and again ───────────────────────────────────────────────


def word_reports(words, oracle=None, step=500):
  """An evaluation: words in UViM's codes and, if given, in the oracle's."""
  reports = [(step, {"uvim/PQ": 30.0, "uvim/words_per_code": words})]
  if oracle is not None:
    values = {"oracle_code/PQ": 40.0, "oracle_code/words_per_code": oracle}
    reports.append((step, values))
  return reports


def without_oracle(**model):
  config = dict(STAGE_II, evals=[runs.evaluator("uvim")],
                oracle=dict(model=model))
  return alarms.Alarms(config, 1000)


@pytest.mark.parametrize("words,oracle,is_alarm", [
    (1.0, 21.0, True),
    (1.9, 21.0, True),
    (2.1, 21.0, False),  # Few, but a tenth of the oracle's.
    (3.9, 40.0, True),  # Less than a tenth.
    (4.1, 40.0, False),
    (1.0, 1.6, False),  # The oracle needs no more either.
    (1.0, 2.5, True),
])
def test_a_repeated_word(words, oracle, is_alarm):
  want = [(500, "repeated_word")] if is_alarm else []
  reports = word_reports(words, oracle)
  assert alarms_of(reports) == want
  assert alarms_of(reports[::-1]) == want


def test_a_repeated_word_says_how_many_words_there_are():
  watch = alarms.Alarms(STAGE_II, 1000)
  raised = []
  for step, values in word_reports(1.04, 21.0):
    raised += watch.see(step, values)
  alarm, = raised
  assert alarm.figure == 1.04
  assert alarm.message.startswith(
      "repeated word: uvim/words_per_code is 1.04, so one word stands nearly "
      "everywhere; the oracle's codes have 21. Sample at temperature 1")


def test_the_oracles_words_are_known_once_and_for_all():
  reports = word_reports(5.0, 40.0, step=300) + word_reports(3.0, step=600)
  assert alarms_of(reports) == [(600, "repeated_word")]
  # A late report of the oracle says nothing new of the language model.
  late = (700, word_reports(0.0, 40.0)[1][1])
  assert not alarms_of(word_reports(3.0, step=600) + [late])


def test_a_language_model_may_begin_with_one_word():
  assert not alarms_of(word_reports(1.0, 21.0, step=200))
  assert alarms_of(word_reports(1.0, 21.0, step=250))


def test_without_the_oracles_codes_their_length_decides():
  reports = word_reports(1.0)
  alarm = [(500, "repeated_word")]
  assert alarms_of(reports, without_oracle(code_len=64)) == alarm
  assert alarms_of(reports, without_oracle(code_len=4)) == alarm
  assert not alarms_of(reports, without_oracle(code_len=3))
  # The config leaves it to the model: such codes are long.
  assert alarms_of(reports, without_oracle()) == alarm
  assert not alarms_of(word_reports(2.0), without_oracle(code_len=64))


def test_words_are_no_score():
  """The gap is that of a score, even if there is none but the words."""
  reports = []
  for step, words in ((100, 20.0), (200, 10.0)):
    reports += [(step, {"uvim/words_per_code": words}),
                (step, {"oracle_code/words_per_code": 21.0})]
  assert not alarms_of(reports)


def test_every_kind_of_alarm_is_raised_somewhere():
  raised = [name for _, name in alarms_of(
      usage_reports([0.04] * 30), stage_i_alarms())]
  reports = loss_reports([3, 2, 1], [3.0, 2.5, 2.7])
  reports += score_reports([10, 20])
  reports += no_code_reports("PQ", lm=1.0, without=2.0)
  reports += word_reports(1.0, 21.0)
  raised += [name for _, name in alarms_of(reports)]
  assert set(raised) == set(alarm_kinds.KINDS)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_resumed_run_warns_as_one_that_was_never_stopped(tmp_path, cut):
  (tmp_path / "config.json").write_text(json.dumps(STAGE_II))
  reports = [(310, {"val/loss": 1.0, "train/loss": 2.0})]
  for step in (400, 520, 640):
    reports += word_reports(1.0, 21.0, step)
  reports.append((800, {"train/loss": 1.0, "val/loss": 1.2}))
  runs.write_lines(tmp_path, reports[:cut])
  lines = run_files.read_lines(tmp_path).sound
  resumed = alarms.of_run(tmp_path, 1000, lines)
  got = alarms_of(reports[cut:], resumed)

  whole = []
  watch = alarms.Alarms(STAGE_II, 1000)
  for index, report in enumerate(reports):
    raised = alarms_of([report], watch)
    if index >= cut:
      whole += raised
  assert got == whole
  assert got
