"""The measurements on a GPU: the command, its lines, and what it needs."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from tools.bench import flops, noise, training_problems
from tools.bench.gpu import (
  __main__ as gpu_bench,
)
from tools.bench.gpu import (
  machine,
  trace_reader,
  training,
)
from tools.bench.gpu.lines import Lines
from tools.bench.gpu.parts import make_parts, run
from tools.bench.gpu.setting import PAPER, TINY, Ceilings, share

ROOT = pathlib.Path(__file__).parents[4]
# What the measurements may need beside the standard library, and what these
# packages themselves need.
ALLOWED = """
    absl einops etils flax jax jaxtyping ml_collections ml_dtypes numpy optax
    orbax scipy yaml""".split()


def lines_of(text):
  return [json.loads(line) for line in text.splitlines()]


def test_it_needs_only_what_an_image_with_jax_has():
  # All that requirements.txt names, the others hidden.
  code = f"""
import importlib.metadata, re, sys
allowed = {ALLOWED!r}
modules = importlib.metadata.packages_distributions()
text = open("requirements.txt").read()
wanted = set(re.findall(r"^([\\w-]+)", text, re.M))
wanted = {{name.lower().replace("_", "-") for name in wanted}}
for module, names in modules.items():
  names = {{name.lower().replace("_", "-") for name in names}}
  if names & wanted and module not in allowed:
    sys.modules[module] = None  # An import of it raises.
assert "tensorflow" in sys.modules and "msgspec" in sys.modules
import tools.bench.gpu.__main__, tools.bench.gpu.parts
from uvim.tasks import make_task
from tools.bench.gpu.setting import TINY
make_task("panoptic_segmentation", TINY.stage_i)
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=300,
                        capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("argv,words", [
    (["decoder", "--tiny"], ["'decoder'", "'decode'"]),
    (["--seconds", "0"], ["--seconds 0", "above 0"]),
    # The tests hide any GPU.
    ([], ["'cpu'", "--tiny"]),
])
def test_mistakes_are_one_line(argv, words, capsys):
  assert gpu_bench.main(argv) == 2
  out, error = capsys.readouterr()
  assert not out and error.startswith("error: ") and error.count("\n") == 1
  assert all(word in error for word in words)


def test_lines_are_written_as_they_come_and_a_failure_ends_its_part(capsys):
  lines = Lines()

  def part():
    yield {"ms": 1.23456, "more": {"s": 0.000123456}, "of_peak": None}
    raise ValueError("no room\nand more")

  lines.run_part("first", part)
  lines.run_part("second", lambda: [{"batch": 2}])
  first, failed, second = lines_of(capsys.readouterr().out)
  assert first.pop("at_s") >= 0
  assert first == {"part": "first", "ms": 1.235, "more": {"s": 0.0001235},
                   "of_peak": None}
  assert failed["part"] == "first"
  assert failed["failed"] == "ValueError: no room"
  assert second["part"] == "second" and second["batch"] == 2
  assert lines.num_failed == 1


def test_parts_follow_the_ceilings_that_they_are_held_against(capsys):
  setting = TINY
  lines = Lines()
  seen = []

  def part(setting_of_part, ceilings):
    assert setting_of_part is setting
    seen.append(ceilings)
    # Only what has not begun is waiting.
    yield {"waiting": list(lines.waiting)}

  run({"a": part, "b": part}, setting, lines)
  ceilings, a, b, end = lines_of(capsys.readouterr().out)
  assert ceilings["part"] == "ceilings" and ceilings["tflop_s"] > 0
  assert a["waiting"] == ["b"] and b["waiting"] == []
  assert end["part"] == "end" and end["num_failed"] == 0
  assert seen[0].flops == pytest.approx(ceilings["tflop_s"] * 1e12, rel=1e-3)


def test_it_ends_in_time_whatever_it_does():
  # The time is over before JAX is there.
  command = [sys.executable, "-m", "tools.bench.gpu", "--tiny", "host",
             "--seconds", "0.01"]
  done = subprocess.run(command, cwd=ROOT, timeout=300, capture_output=True,
                        text=True, check=False)
  assert done.returncode == 0, done.stderr
  last = lines_of(done.stdout)[-1]
  assert last["stopped"] and last["left_out"] in ([], ["host"])


def test_the_most_important_parts_come_first():
  names = list(make_parts(PAPER))
  assert names[:5] == [
      "attention", "label_embedding", "stage_i", "stage_ii", "decode"]
  assert names == list(make_parts(TINY))
  assert all(32 <= size <= 128 for size in PAPER.batch_sizes)


def test_a_batch_is_brought_to_the_device():
  host, as_bytes = machine.host_to_device(TINY, Ceilings())
  # 32 · 32 pixels with three floats and two integers of 4 bytes each.
  assert host["mb_per_image"] == pytest.approx(32 * 32 * 5 * 4 / 1e6)
  assert as_bytes["mb_per_image"] == pytest.approx(32 * 32 * 5 / 1e6)
  assert share(3.0, None) is None and share(3.0, 2.0) == 1.5


@pytest.mark.parametrize(
    "part", ["decode", "words_few", "codebook"])
def test_parts_give_lines_that_json_can_hold(part):
  lines = list(make_parts(TINY)[part](TINY, Ceilings(1e9, 1e9)))
  assert lines
  for line in lines:
    # Nothing is sure about a time but that it is a number.
    assert line["batch"] == 2 and "NaN" not in json.dumps(line)


def test_the_device_draws_an_oracle_of_the_shapes_that_the_step_reads():
  problem = training_problems.stage_ii(
      TINY.stage_ii, TINY.stage_i, 2, TINY.optimizer, only_compiled=True)
  oracle = jax.eval_shape(lambda: training._draw_oracle(problem))
  assert noise.shapes_of(oracle) == problem.frozen


def test_kernels_are_added_up_by_name():
  line = trace_reader._summary([("a", 1.0), ("b", 3.0), ("a", 1.5)])
  assert line == {"kernels": 3, "ms": 5.5, "slowest": {"b": 3.0, "a": 2.5}}


@pytest.mark.parametrize("num_products,name", [
    (2, "dot_product_attention_fwd_wrapper"),
    (4, "dot_product_attention_bwd_wrapper"),
])
def test_the_attention_of_cudnn_is_counted(num_products, name):
  # cuDNN itself runs on a GPU alone; its operation is known by its name.
  operation = jax.extend.core.Primitive(name)
  operation.def_abstract_eval(lambda q, k, v: q)
  q_BTAH = jnp.ones((2, 8, 3, 4))
  k_BSAH = jnp.ones((2, 16, 3, 4))
  traced = jax.make_jaxpr(operation.bind)(q_BTAH, k_BSAH, k_BSAH)
  assert flops.count(traced) == num_products * 2 * (2 * 3 * 8 * 16 * 4)


def test_the_plain_attention_has_as_many_products():
  def attend(q_BTAH, k_BSAH, v_BSAH):
    return jnp.sum(jax.nn.dot_product_attention(q_BTAH, k_BSAH, v_BSAH))

  # Heads so large that the softmax costs next to nothing.
  q_BTAH = jnp.ones((1, 8, 1, 4096))
  k_BSAH = jnp.ones((1, 16, 1, 4096))
  product = 2 * 8 * 16 * 4096
  gradient = jax.grad(attend, argnums=(0, 1, 2))
  for function, num_products in ((attend, 2), (gradient, 6)):
    traced = jax.make_jaxpr(function)(q_BTAH, k_BSAH, k_BSAH)
    assert flops.count(traced) == pytest.approx(
        num_products * product, rel=0.1)
