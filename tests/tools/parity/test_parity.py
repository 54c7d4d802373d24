"""The parity report: what agrees, what is found, and what is never silent."""

import json
import shutil

import jax
import numpy as np
import pytest

from tools.parity import (
  __main__ as parity,
)
from tools.parity import (
  common as parity_common,
)
from tools.parity import (
  parts as parity_parts,
)
from tools.parity import (
  stage1 as parity_stage1,
)
from tools.parity import (
  stage2 as parity_stage2,
)
from tools.parity.common import Quantity
from uvim import tree
from uvim.codes import vq as quantizer
from uvim.models import vit
from uvim.priors import lm


def status(ours, theirs, **fields):
  return parity_common.judge(Quantity("name", ours, theirs, **fields)).status


@pytest.mark.parametrize("ours,theirs,expected", [
    ([100.0, 1e-4], [100.0, 0.0], "pass"),  # 1e-6 of the scale.
    ([100.0, 2e-3], [100.0, 0.0], "FAIL"),
    ([100.0, np.nan], [100.0, 0.0], "FAIL"),
    ([np.inf, np.nan], [np.inf, np.nan], "pass"),
    ([np.inf, 1.0], [2.0, 1.0], "FAIL"),
    ([1e-30, 0.0], [0.0, 0.0], "FAIL"),
    ([0.0, 0.0], [0.0, 0.0], "pass"),
    ([7, 8], [7, 8], "pass"),
    ([100_000, 8], [100_001, 8], "FAIL"),  # Whole numbers: exactly.
    ([7.0, 8.0], [7, 8], "FAIL"),
    ([7, 8], [7.0, 8.0], "FAIL"),
    ([True, False], [True, True], "FAIL"),
    ([1.0], [1.0, 1.0], "FAIL"),
    (np.zeros((0, 3)), np.zeros((0, 3)), "pass"),
    (["float32"], ["uint8"], "FAIL"),
    (None, [1.0], "not compared"),
    ([1.0], None, "FAIL"),
])
def test_floats_agree_to_the_scale_and_all_else_exactly(
    ours, theirs, expected):
  arrays = [x if x is None else np.array(x) for x in (ours, theirs)]
  assert status(*arrays) == expected


def test_what_is_informative_never_fails():
  far = np.array([1.0]), np.array([2.0])
  assert status(*far) == "FAIL"
  for ours in (far[0], far[0][:0], None):
    assert status(ours, far[1], informative=True) == "informative"


def test_a_small_gradient_is_judged_by_the_largest():
  theirs = {"grad/a": np.array([100.0]), "grad/b": np.array([1e-9]),
            "grad/c": np.array([0.5])}

  def statuses(**changes):
    grads = {"a": np.array([100.0]), "b": np.array([3e-9]),
             "c": np.array([0.5])} | changes
    return [parity_common.judge(q).status
            for q in parity_common.gradients("file", grads, theirs)]

  assert statuses() == ["pass"] * 3
  assert statuses(c=np.array([0.501])) == ["pass", "pass", "FAIL"]
  assert statuses(a=np.array([100.01])) == ["FAIL", "pass", "pass"]
  # One more than the original has.
  assert statuses(d=np.array([0.0])) == ["pass"] * 3 + ["FAIL"]


def test_files_are_found_by_pattern_and_go_to_the_longest_name(tmp_path):
  for name in ("stage1_a.json", "stage1_a_out.npz", "stage1_a_b.json",
               "stage1_a_b_grad_wcommit025.npz", "stage2_seed7.json",
               "stage2_seed7_out.npz", "pp_ops.json", "pp_ops.npz",
               "stage1_lost_out.npz", "notes.txt", "README.md"):
    (tmp_path / name).touch()
  fixtures, others = parity.find(tmp_path)
  assert {f.path.name: {k: p.name for k, p in f.parts.items()}
          for f in fixtures} == {
      "pp_ops.json": {"": "pp_ops.npz"},
      "stage1_a.json": {"out": "stage1_a_out.npz"},
      "stage1_a_b.json": {
          "grad_wcommit025": "stage1_a_b_grad_wcommit025.npz"},
      "stage2_seed7.json": {"out": "stage2_seed7_out.npz"}}
  assert [p.name for p in others] == ["notes.txt", "stage1_lost_out.npz"]


@pytest.fixture
def measures(tmp_path):
  """A fixture of one file; change it with `write`."""
  def write(**changes):
    np.savez(tmp_path / "eval_metrics.npz", **{
        "resize_in": np.arange(6.0).reshape(2, 3),
        "resize_nearest_1x3": np.array([[3.0, 4.0, 5.0]])} | changes)
    return tmp_path
  return write


def test_the_exit_status_tells_whether_all_is_well(measures, capsys):
  assert parity.main([str(measures())]) == 0
  line = capsys.readouterr().out.splitlines()[0].split()
  assert line == ["eval_metrics/resize_nearest_1x3", "0.0e+00", "0.0e+00",
                  "pass"]
  wrong = measures(resize_nearest_1x3=np.array([[3.0, 4.0, 5.5]]))
  assert parity.main([str(wrong)]) == 1
  out = capsys.readouterr().out
  assert "5.0e-01  9.1e-02  FAIL" in out and "1 quantities: 1 FAIL" in out
  # Nothing at all is no success.
  assert parity.main([str(measures()), "stage1"]) == 1
  assert parity.main([]) == parity.main([str(measures() / "none")]) == 2


def test_what_is_unknown_is_named(measures, capsys):
  folder = measures(ssim=np.float32(1))
  np.savez(folder / "attention_maps.npz", x=np.zeros(3))
  assert parity.main([str(folder)]) == 0
  out = capsys.readouterr().out
  for name in ("eval_metrics/ssim", "attention_maps.npz"):
    line = next(s for s in out.splitlines() if s.startswith(name))
    assert "not compared" in line
  assert "1 pass, 0 FAIL, 2 not compared" in out


def test_a_broken_fixture_hides_no_other(measures, capsys):
  folder = measures()
  (folder / "stage1_a.json").write_text(json.dumps(
      {"task": "panoptic_task", "model": {}}))
  assert parity.main([str(folder)]) == 1
  out = capsys.readouterr().out
  assert "stage1_a_params.npz is missing" in out and "1 pass, 1 FAIL" in out


# Made-up fixtures of what no released one shows.


def random_params(init):
  """Parameters by shape, drawn by numpy: compiling takes seconds."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
      lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32),
      jax.eval_shape(init, jax.random.key(0)))


def save(path, **arrays):
  np.savez(path, **{k: np.asarray(v) for k, v in arrays.items()})


@pytest.fixture(scope="module")
def color(tmp_path_factory):
  """A folder with a colour fixture that fits: (folder, its arrays)."""
  folder = tmp_path_factory.mktemp("color")
  labels = {"color": [3, 16]}
  meta = {"task": "colorization_task", "min_depth": None, "max_depth": None,
          "model": {
              "input_size": [8, 8], "patch_size": [4, 4], "code_len": 4,
              "width": 8, "enc_depth": 1, "dec_depth": 1, "mlp_dim": 8,
              "num_heads": 2, "dict_size": 8, "codeword_dim": 4,
              "statistics_axis_name": None, "inputs": labels,
              "outputs": labels, "code_dropout": "none",
              "bottleneck_resize": False}}
  (folder / "stage1_color.json").write_text(json.dumps(meta))
  stage = parity_stage1.make_stage(meta)
  params = random_params(lambda rng: vit.init_params(stage.model, rng))
  codebook = quantizer.init_codebook(jax.random.key(1), 8, 4)
  rng = np.random.default_rng(1)
  batch = {"image": rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32),
           "labels": rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)}
  save(folder / "stage1_color_params.npz", **{
      f"params/{k}": v for k, v in tree.flatten(params).items()},
      **{f"state/{k}": v for k, v in vars(codebook).items()},
      **{f"batch/{k}": v for k, v in batch.items()})
  out = jax.jit(parity_stage1.forward, static_argnums=0)(
      stage, params, codebook, batch)
  out = {k: np.asarray(v) for k, v in out.items() if "_ratio" not in k}
  # By hand what the tool gets from the task.
  patches = batch["labels"].reshape(2, 2, 4, 2, 4, 3).transpose(
      0, 1, 3, 5, 2, 4).reshape(2, 4, 3, 16)
  out["loss/loss_color"] = (out["logits/color"] - patches) ** 2
  out["pred/color"] = np.clip(
      out["logits/color"].reshape(2, 2, 2, 3, 4, 4).transpose(
          0, 1, 4, 2, 5, 3).reshape(2, 8, 8, 3), -1, 1)
  save(folder / "stage1_color_out.npz", **out)
  return folder, out


def test_colour_fixtures_are_understood(color, capsys):
  folder, out = color
  assert parity.main([str(folder)]) == 0
  assert f"{len(out)} quantities: {len(out)} pass" in capsys.readouterr().out


def test_one_wrong_array_is_one_line(color, tmp_path, capsys):
  folder, out = color
  for name in ("stage1_color.json", "stage1_color_params.npz"):
    shutil.copy(folder / name, tmp_path)
  save(tmp_path / "stage1_color_out.npz", **out | {
      "code": (out["code"] + 1) % 8})
  assert parity.main([str(tmp_path)]) == 1
  failed = [s for s in capsys.readouterr().out.splitlines() if "  FAIL" in s]
  assert [s.split()[0] for s in failed] == ["stage1_color_out/code"]


def greedy_with_the_start_word(model, params, image):
  """Argmax over all words, the start word included, one full pass a word."""
  text = np.zeros((len(image), model.seq_len), np.int32)
  logits_of = jax.jit(lambda t: model.apply({"params": params}, image, t))
  for i in range(model.seq_len):
    text[:, i] = np.argmax(logits_of(text)[:, i], axis=-1)
  logprobs = np.asarray(jax.nn.log_softmax(logits_of(text)))
  return text, np.take_along_axis(logprobs, text[..., None], -1)[..., 0]


def test_greedy_sequences_may_hold_the_start_word(tmp_path, capsys):
  config = {"num_layers": 1, "num_heads": 2, "mlp_dim": 8, "emb_dim": 8,
            "patches": {"size": [4, 4]}, "input_size": [4, 8], "seq_len": 5,
            "vocab_size": 7, "posemb_type": "learn", "dropout_rate": 0.0,
            "zero_decoder_seq": False}
  (tmp_path / "stage2_small.json").write_text(json.dumps({"config": config}))
  model = lm.LM(**parity_stage2.model_fields(config))
  params = random_params(lambda rng: lm.init_params(model, rng))
  params["decoder"]["LogitsDense"]["bias"][0] -= 1
  image = np.random.default_rng(2).uniform(
      -1, 1, (12, 4, 8, 3)).astype(np.float32)
  text, logprobs = greedy_with_the_start_word(model, params, image)
  whole = (text != 0).all(1)
  assert 0 < whole.sum() < len(text)

  def write(text):
    save(tmp_path / "stage2_small_params.npz", image=image, text=text, **{
        f"params/{k}": v for k, v in tree.flatten(params).items()})
    save(tmp_path / "stage2_small_out.npz", greedy_seqs=text[:, None],
         greedy_logprobs=logprobs[:, None],
         greedy_scores=logprobs.sum(1)[:, None],
         sample_T1=text[:, None], sample_T1_logprobs=logprobs[:, None],
         beam_scores=logprobs.sum(1))
    status = parity.main([str(tmp_path)])
    return status, capsys.readouterr().out

  status, out = write(text)
  assert status == 0, out
  assert "3 pass, 0 FAIL, 2 informative, 1 not compared" in out
  assert f"{(~whole).sum()} of 12 hold the start word" in out
  for row in (np.argmax(whole), np.argmin(whole)):
    wrong = text.copy()
    wrong[row, -1] = wrong[row, -1] % 6 + 1
    assert write(wrong)[0] == 1


def test_ops_are_compared_with_their_types(tmp_path, capsys):
  image = np.array([[[0, 51, 255]]], np.uint8)
  (tmp_path / "pp_ops.json").write_text(json.dumps({"calls": {
      "wrong": "value_rnge(0, 1)", "scale": "value_range(0, 1)",
      "typed": 'copy("image", "labels")'}}))
  save(tmp_path / "pp_ops.npz", **{
      "wrong/in/image": image, "wrong/out/image": image,
      "scale/in/image": image, "typed/in/image": image, "lost/out/image": image,
      "scale/out/image": np.float32([[[0, 0.2, 1]]]),
      "typed/out/labels": image.astype(np.int32)})
  assert parity.main([str(tmp_path)]) == 1
  lines = {s.split("  ")[0]: s for s in capsys.readouterr().out.splitlines()}
  for name, status in {
      "pp_ops/wrong": "Did you mean 'value_range'",
      "pp_ops/scale/out/image": "pass", "pp_ops/typed/out/labels": "pass",
      "pp_ops/typed/out/labels dtype": "FAIL",
      "pp_ops/lost/out/image": "not compared"}.items():
    assert status in lines[name]


# The released implementation's.


def test_small_fixtures_pass(fixtures, capsys):
  pattern = "schedules|panoptic_predict|eval_metrics|stage1_color"
  assert parity.main([str(fixtures), pattern]) == 0
  out = capsys.readouterr().out
  # The resized arrays, six measures and PSNR; four schedules; four outputs.
  assert "18 quantities: 18 pass, 0 FAIL" in out


def test_depth_and_its_files_that_are_missing(fixtures, tmp_path, capsys):
  for end in (".json", "_params.npz", "_out.npz"):
    shutil.copy(fixtures / f"stage1_depth{end}", tmp_path)
  assert parity.main([str(tmp_path)]) == 0
  assert "stage1_depth_out: 11 pass, 0 FAIL" in capsys.readouterr().out


def test_one_bit_of_a_momentum_passes_and_a_small_error_of_all_does_not():
  before = np.ones(2000, np.float32)
  theirs = before + np.float32(0.01)
  one, large = theirs.copy(), theirs.copy()
  one[7] += 0.01 * 2.0**-9
  large[7] += 0.01 * 2.0**-6
  for ours, passes in ((one, True), (large, False),
                       (theirs + np.float32(3e-5), False)):
    quantity = Quantity("x/params_after2/a", ours, theirs)
    verdict = parity_common.judge(
        parity_parts._but_for_bits(quantity, before))
    assert (verdict.status == parity_common.PASS) == passes
