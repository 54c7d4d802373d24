"""When a run warns, of what, and when it keeps quiet."""

import pytest

from tests.trainers.report import runs
from trainers.report import alarms, run_files

PAIR = alarms.Pair("uvim/", "oracle_code/")


def alarms_of(reports, watch=None):
  """[(step, name), …] of every alarm over reports [(step, values), …]."""
  if watch is None:
    watch = alarms.Alarms(1000, [PAIR])
  raised = []
  for step, values in reports:
    for alarm in watch.see(step, values):
      raised.append((step, alarm.name))
  return raised


def usage_reports(values, every=20, start=0):
  reports = []
  for index, value in enumerate(values):
    step = start + index * every
    reports.append((step, {"train/code/usage": value}))
  return reports


def test_collapse_is_told_after_the_warm_up_and_not_at_every_report():
  raised = alarms_of(usage_reports([0.04] * 30))
  assert raised[0] == (100, "codebook_collapse")  # A tenth of the run.
  # And once in each further tenth.
  assert [step for step, _ in raised] == [100, 200, 300, 400, 500]


def test_usage_that_starts_anew_in_each_epoch_is_no_collapse():
  healthy = [0.02, 0.2, 0.6, 0.9]
  assert not alarms_of(usage_reports(healthy * 10, start=200))
  poor = [0.02, 0.1, 0.2, 0.24]
  assert alarms_of(usage_reports(poor * 10, start=200))


def test_collapse_says_how_much_is_used():
  watch = alarms.Alarms(100)
  raised = []
  for step in (50, 51, 52):
    raised += watch.see(step, {"train/code/usage": 0.031})
  alarm, = raised
  assert alarm.figure == 0.031
  assert "3.1%" in alarm.message and "\n" not in alarm.message


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
  assert alarms.pairs_of([lm, oracle, zero, train]) == [PAIR]
  stage1 = [runs.evaluator("oracle_code")]
  assert not alarms.pairs_of(stage1)
  without_prefix = lm | {"prefix": ""}
  assert not alarms.pairs_of([without_prefix, oracle])


@pytest.mark.parametrize("cut", [3, 8, 31])
def test_a_resumed_run_warns_as_one_that_was_never_stopped(tmp_path, cut):
  reports = usage_reports([0.04] * 30)
  reports.append((601, {"val/loss": 1.0, "train/loss": 2.0}))
  reports.append((800, {"train/loss": 1.0, "val/loss": 1.2}))
  runs.write_lines(tmp_path, reports[:cut])
  lines = run_files.read_lines(tmp_path).sound
  resumed = alarms.of_run(tmp_path, 1000, lines)
  got = alarms_of(reports[cut:], resumed)

  first_step, _ = reports[cut]
  want = [alarm for alarm in alarms_of(reports) if alarm[0] >= first_step]
  assert got == want
  assert got
