"""Every benchmark at a tiny size; what is asserted is that both sides agree."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tools.bench import (
  __main__ as bench,
)
from tools.bench import (
  flops as bench_flops,
)
from tools.bench import (
  measure as bench_measure,
)
from tools.bench import (
  naive_parts as bench_naive_parts,
)
from tools.bench import (
  train as bench_train,
)
from tools.bench.measure import Disagree, Row
from tools.bench.sizes import LEAN_I, LEAN_II, SIZES
from tools.bench.worker import BENCHMARKS

TINY = SIZES["tiny"]


def check(name, rows):
  assert rows and len({row.name for row in rows}) == len(rows)
  for row in rows:
    assert row.name.split()[0] == name
    # Nothing else is sure about a time.
    assert all(x > 0 and math.isfinite(x)
               for x in (row.ours, row.naive, row.ratio))
  assert bench.text(rows).count("\n") == len(rows)
  assert bench.markdown(rows).count("\n") == len(rows) + 1


@pytest.mark.parametrize("name", ["C3", "C4", "C5", "C6", "growth"])
def test_both_sides_agree_and_are_measured(name):
  check(name, list(BENCHMARKS[name](TINY)))


@pytest.mark.parametrize("name", ["C1", "C2", "C7", "C8"])
def test_training_steps_are_measured(name, monkeypatch):
  # Compiling them takes half a minute: they are traced only. What they compute
  # is the next test's matter, and the tool's own.
  def traced(fn, *args, **_):
    flops = bench_flops.count(jax.make_jaxpr(fn)(*args))
    return bench_measure.Program(
        lambda state, *_: (state, {"loss": 1.0, "grad_norm": 1.0}),
        temp_bytes=8, argument_bytes=1, flops=flops)

  monkeypatch.setattr(bench_measure, "compiled", traced)
  monkeypatch.setitem(bench_train._OPTIMIZER, "schedule", [(".*", None)])
  rows = list(BENCHMARKS[name](TINY))
  check(name, rows)
  assert all(row.flops_ours > 0 and row.temp_bytes_naive == 8 for row in rows)


@pytest.mark.parametrize("make,fields", [
    (bench_train.stage_i, (TINY.stage_i | LEAN_I,)),
    (bench_train.stage_ii, (TINY.stage_ii | LEAN_II, TINY.stage_i)),
], ids=["stage I", "stage II with the oracle"])
def test_training_losses_agree(make, fields):
  problem = make(*fields, 2)
  state = bench_train.first_state(problem)
  batch = bench_train.make_batch(TINY.stage_i, 2)
  rngs_B = jax.random.split(jax.random.key(0), 2)
  losses = [
      jax.jit(lambda *args, stage=stage: stage.loss(*args)[0])(
          state.params, state.codebook, problem.frozen, batch, rngs_B)
      for stage in (problem.stage, problem.naive_stage)]
  np.testing.assert_allclose(*losses, rtol=1e-5)


def test_what_differs_is_not_measured(monkeypatch):
  right = bench_naive_parts.panoptic_outputs
  monkeypatch.setattr(bench_naive_parts, "panoptic_outputs",
                      lambda semantics, ids: right(-semantics, ids))
  with pytest.raises(Disagree, match="C5"):
    list(BENCHMARKS["C5"](TINY))


@pytest.mark.parametrize("change,part", [
    (dict(), None),
    (dict(loss=1.1), "loss"),
    (dict(kernel=[0.9, 2.1]), "params/a/kernel"),
    (dict(bias=[9.0]), None),  # Of a key: rounding noise, no difference.
])
def test_a_step_that_differs_is_not_measured(change, part):
  def state(kernel, bias):
    params = {"a": {"kernel": np.array(kernel)},
              "key": {"bias": np.array(bias)}}
    return types.SimpleNamespace(params=params, codebook=None)

  start = state([0.0, 0.0], [0.0])
  right = state([1.0, 2.0], [1.0]), dict(loss=1.0, grad_norm=1.0)
  wrong = (state(change.get("kernel", [1.0, 2.0]), change.get("bias", [1.0])),
           dict(loss=change.get("loss", 1.0), grad_norm=1.0))
  if part is None:
    bench_train.compare("C1", start, wrong, right, tolerance=1e-2)
  else:
    with pytest.raises(Disagree, match=f"C1: {part} differs"):
      bench_train.compare("C1", start, wrong, right, tolerance=1e-2)


def test_what_is_only_compiled_runs_side_by_side():
  assert bench.groups(["C1", "C7", "C8", "growth"]) == [
      ["C1"], ["growth"], ["C7", "C8"]]
  assert bench.groups(["C3"]) == [["C3"]]


def test_the_command_line_writes_the_list(tmp_path, capsys):
  path = tmp_path / "rows.json"
  assert bench.main(["C6", "--quick", "--json", str(path)]) == 0
  rows = json.loads(path.read_text())
  assert {"C6", "C6 in memory"} <= {row["name"] for row in rows}
  for row in rows:
    assert list(row) == ["name", "unit", "ours", "naive", "ratio",
                         "temp_bytes_ours", "temp_bytes_naive", "flops_ours",
                         "flops_naive"]
    assert row["ratio"] == pytest.approx(row["ours"] / row["naive"])
    assert row["unit"] == "images/s" and row["flops_ours"] is None
  assert "C6 in memory" in capsys.readouterr().out


@pytest.mark.parametrize("argv,words", [
    (["C9"], ["'C9'", "C1"]),
    (["C1", "grwoth"], ["'grwoth'", "'growth'"]),
    (["C4", "--device", "gpu"], ["'C4'", "--device gpu"]),
    (["C6", "--json", "nowhere/rows.json"], ["nowhere/rows.json"]),
])
def test_mistakes_are_one_line(argv, words, capsys):
  assert bench.main(argv) == 2
  out, error = capsys.readouterr()
  assert not out and error.startswith("error: ") and error.count("\n") == 1
  assert all(word in error for word in words)


def test_a_benchmark_that_fails_is_named_and_the_others_reported(
    monkeypatch, capsys):
  results = {"C1": None, "C6": [Row(
      "C6", "images/s", 4.0, 2.0, 2.0, details=dict(
          seconds_ours=1, seconds_naive=2, min_ours=0.9, max_ours=1.1,
          min_naive=2, max_naive=2))]}
  monkeypatch.setattr(bench, "run", lambda name, *_: results[name])
  assert bench.main(["C1", "C6", "C1"]) == 1
  out, error = capsys.readouterr()
  assert "4 ± 10 %" in out and "≥ 15×: missed" in out
  assert "failed: C1" in error


def test_targets_hold_time_memory_and_operations():
  def row(**fields):
    return Row(**dict(dict(name="C7", unit="bytes", ours=3, naive=10, ratio=3,
                           temp_bytes_ours=3, temp_bytes_naive=10,
                           flops_ours=11, flops_naive=10), **fields))

  assert bench.is_met(row())
  assert not bench.is_met(row(temp_bytes_ours=4))
  assert not bench.is_met(row(flops_ours=12))
  # A naive side that is worse than the original is no excuse: 29.6 GB.
  assert not bench.is_met(row(temp_bytes_ours=12e9, temp_bytes_naive=90e9))
  assert not bench.is_met(row(name="C6"))
  assert bench.is_met(row(name="growth")) is None


def test_loops_are_counted_in_full_and_agree_with_the_compiler():
  x = jnp.ones((16, 16))

  def unrolled(x):
    for _ in range(5):
      x = jnp.tanh(x @ x) + 1
    return jnp.sum(x)

  def scanned(x):
    y, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ x) + 1, None), x, None, 5)
    return jnp.sum(y)

  def count(fn):
    return bench_flops.count(jax.make_jaxpr(fn)(x))

  assert count(scanned) == count(unrolled)
  for fn in (unrolled, jax.grad(unrolled)):
    cost = jax.jit(fn).lower(x).compile().cost_analysis()
    assert count(fn) == pytest.approx(cost["flops"], rel=0.1)
  # The backward pass of a scan, and its recomputation under remat.
  assert count(jax.grad(scanned)) == pytest.approx(
      count(jax.grad(unrolled)), rel=0.1)
  again = jax.grad(jax.checkpoint(unrolled))
  assert count(again) > 1.25 * count(jax.grad(unrolled))


def test_a_line_through_two_depths():
  one, two = (bench_measure.Program(None, temp, 10, flops)
              for temp, flops in ((100, 7.0), (130, 9.0)))
  assert bench_measure.extrapolated(one, two, steps=5) == (
      bench_measure.Program(None, 250, 10, 17.0))


def test_both_sides_run_in_turns():
  order = []
  times = bench_measure.alternate(
      lambda: order.append("a"), lambda: order.append("b"), repeats=3)
  assert "".join(order) == "ab" * 3
  assert [len(t.wall) for t in times] == [3, 3]
