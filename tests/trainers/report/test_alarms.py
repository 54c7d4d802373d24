"""When a run warns, of what, and when it keeps quiet."""

import json

import pytest

from trainers.report import alarms

PAIR = alarms.Pair("uvim/", "oracle_code/")


def told(reports, total=1000, pairs=(PAIR,)):
  """(step, name) of every alarm over reports [(step, values)]."""
  watch = alarms.Alarms(total, pairs)
  return [(step, name) for step, values in reports
          for name, _, _ in watch.see(step, values)]


def usage(values, every=20, start=0):
  return [(start + i * every, {"train/code/usage": v})
          for i, v in enumerate(values)]


def test_collapse_is_told_after_the_warm_up_and_not_at_every_report():
  got = told(usage([0.04] * 30))
  assert got[0] == (100, "codebook_collapse")  # A tenth of the run.
  # And once in each further tenth.
  assert [step for step, _ in got] == [100, 200, 300, 400, 500]


def test_usage_that_starts_anew_in_each_epoch_is_no_collapse():
  epoch = [0.02, 0.2, 0.6, 0.9]
  assert not told(usage(epoch * 10, start=200))
  assert told(usage([0.02, 0.1, 0.2, 0.24] * 10, start=200))


def test_collapse_says_how_much_is_used():
  watch = alarms.Alarms(100)
  reports = [watch.see(50 + i, {"train/code/usage": 0.031}) for i in range(3)]
  (_, figure, message), = [alarm for r in reports for alarm in r]
  assert figure == 0.031 and "3.1%" in message and "\n" not in message


def scores(gaps, oracle=40.0, sign=-1):
  """Evaluations at steps 100, 200, …: first UViM's line, then the oracle's."""
  for i, gap in enumerate(gaps):
    yield 100 * (i + 1), {"uvim/PQ": oracle + sign * gap, "uvim/SQ": 0.0}
    yield 100 * (i + 1), {"oracle_code/PQ": oracle, "oracle_code/SQ": 99.0}


@pytest.mark.parametrize("sign", [-1, 1])  # PQ, or an error such as RMSE.
def test_a_gap_that_widens(sign):
  assert not told(scores([30, 20, 10, 10, 12], sign=sign))
  assert told(scores([30, 20, 10, 15], sign=sign)) == [(400, "oracle_gap")]


def test_a_tiny_gap_may_double():
  assert not told(scores([0.2, 0.4, 0.8]))


def test_the_order_of_the_evaluators_does_not_matter():
  lines = list(scores([10, 20]))
  swapped = [lines[i] for i in (1, 0, 3, 2)]
  assert told(swapped) == told(lines) == [(200, "oracle_gap")]


def losses(train, val):
  for i, (a, b) in enumerate(zip(train, val, strict=True)):
    for k in range(10):
      yield 100 * i + k, {"train/loss": a}
    yield 100 * i + 10, {"val/loss": b}


def test_overfitting_is_a_loss_that_rises_on_unseen_data_alone():
  assert told(losses([3, 2, 1], [3.0, 2.5, 2.7])) == [(210, "overfitting")]
  assert not told(losses([3, 2, 1], [3.0, 2.5, 2.55]))  # Noise.
  assert not told(losses([3, 2, 2.5], [3.0, 2.5, 2.9]))  # Both rise.


def block(name, **changes):
  return dict(dict(type="pq", dataset="rooms", split="validation",
                   options={}, pred="predict", prefix=f"{name}/"), **changes)


def test_pairs_are_the_evaluators_that_differ_in_the_code_alone():
  lm, oracle = block("uvim"), block("oracle_code", pred="oracle")
  zero, train = block("zero", pred="zero_code"), block("t", split="train")
  assert alarms.pairs_of([lm, oracle, zero, train]) == [PAIR]
  assert not alarms.pairs_of([block("oracle_code")])  # Stage I.
  assert not alarms.pairs_of([lm | {"prefix": ""}, oracle])


def test_a_resumed_run_warns_as_the_unbroken_one(tmp_path):
  reports = usage([0.04] * 30) + [
      (601, {"val/loss": 1.0, "train/loss": 2.0}),
      (800, {"train/loss": 1.0, "val/loss": 1.2})]
  whole = told(reports)
  for cut in (3, 8, 31):
    (tmp_path / "metrics.jsonl").write_text("".join(
        json.dumps({"step": step, **values}) + "\n"
        for step, values in reports[:cut]))
    resumed = alarms.of_run(tmp_path, 1000)
    rest = [(step, name) for step, values in reports[cut:]
            for name, _, _ in resumed.see(step, values)]
    assert rest == [a for a in whole if a[0] >= reports[cut][0]]
    assert rest
