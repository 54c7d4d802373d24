"""The parity report: what agrees, what is found, and what is never silent."""

import json
import shutil

import jax
import numpy as np
import pytest

from tools.parity import __main__ as parity
from tools.parity import common, optimizer, stage1, stage2
from tools.parity import fixtures as fixture_files
from tools.parity.common import Quantity
from uvim import tree


def judged(ours, theirs, **fields):
  """The status of one quantity."""
  return common.judge(Quantity("name", ours, theirs, **fields)).status


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
  if ours is not None:
    ours = np.array(ours)
  if theirs is not None:
    theirs = np.array(theirs)
  assert judged(ours, theirs) == expected


def test_what_is_informative_never_fails():
  ours = np.array([1.0])
  theirs = np.array([2.0])
  assert judged(ours, theirs) == "FAIL"
  for value in (ours, ours[:0], None):
    assert judged(value, theirs, informative=True) == "informative"


def test_a_small_gradient_is_judged_by_the_largest():
  theirs = {"grad/a": np.array([100.0]), "grad/b": np.array([1e-9]),
            "grad/c": np.array([0.5])}

  def statuses(**changes):
    grads = {"a": np.array([100.0]), "b": np.array([3e-9]),
             "c": np.array([0.5])} | changes
    return [common.judge(quantity).status
            for quantity in common.match_gradients("file", grads, theirs)]

  assert statuses() == ["pass"] * 3
  assert statuses(c=np.array([0.501])) == ["pass", "pass", "FAIL"]
  assert statuses(a=np.array([100.01])) == ["FAIL", "pass", "pass"]
  # One more than the original has.
  assert statuses(d=np.array([0.0])) == ["pass"] * 3 + ["FAIL"]


@pytest.mark.parametrize("part, weight", [
    ("grad", 0.0), ("grad_wcommit025", 0.25), ("grad_wcommit1", 1.0),
    ("grad_wcommit", 0.0)])
def test_the_commitment_weight_is_in_the_name(part, weight):
  assert stage1.commitment_weight(part) == weight


def test_files_are_found_by_pattern_and_go_to_the_longest_name(tmp_path):
  for name in ("stage1_a.json", "stage1_a_out.npz", "stage1_a_b.json",
               "stage1_a_b_grad_wcommit025.npz", "stage2_seed7.json",
               "stage2_seed7_out.npz", "pp_ops.json", "pp_ops.npz",
               "stage1_lost_out.npz", "notes.txt", "README.md"):
    (tmp_path / name).touch()
  found, others = fixture_files.find(tmp_path, parity.KINDS)
  names = {}
  for fixture in found:
    names[fixture.path.name] = {
        part: path.name for part, path in fixture.parts.items()}
  assert names == {
      "pp_ops.json": {"": "pp_ops.npz"},
      "stage1_a.json": {"out": "stage1_a_out.npz"},
      "stage1_a_b.json": {
          "grad_wcommit025": "stage1_a_b_grad_wcommit025.npz"},
      "stage2_seed7.json": {"out": "stage2_seed7_out.npz"}}
  assert [path.name for path in others] == ["notes.txt", "stage1_lost_out.npz"]


def test_a_list_of_encoders_is_not_an_encoder_of_pix2seq_d(tmp_path):
  for name in ("encoder.json", "encoder.npz", "encoder_vit.json",
               "encoder_vit.npz", "encoders.json"):
    (tmp_path / name).touch()
  found, others = fixture_files.find(tmp_path, parity.KINDS)
  names = [fixture.path.name for fixture in found]
  assert names == ["encoder.json", "encoder_vit.json"]
  assert [path.name for path in others] == ["encoders.json"]


@pytest.fixture
def write_measures(tmp_path):
  """Writes a fixture of one file, with changes; returns its folder."""
  def write(**changes):
    arrays = {
        "resize_in": np.arange(6.0).reshape(2, 3),
        "resize_nearest_1x3": np.array([[3.0, 4.0, 5.0]])}
    np.savez(tmp_path / "eval_metrics.npz", **{**arrays, **changes})
    return tmp_path
  return write


def test_the_exit_status_tells_whether_all_is_well(write_measures, capsys):
  assert parity.main([str(write_measures())]) == 0
  line = capsys.readouterr().out.splitlines()[0].split()
  assert line == ["eval_metrics/resize_nearest_1x3", "0.0e+00", "0.0e+00",
                  "pass"]
  wrong = write_measures(resize_nearest_1x3=np.array([[3.0, 4.0, 5.5]]))
  assert parity.main([str(wrong)]) == 1
  out = capsys.readouterr().out
  assert "5.0e-01  9.1e-02  FAIL" in out
  assert "1 quantities: 1 FAIL" in out
  # Nothing at all is no success.
  assert parity.main([str(write_measures()), "stage1"]) == 1
  assert parity.main([]) == 2
  assert parity.main([str(write_measures() / "none")]) == 2


def test_what_is_unknown_is_named(write_measures, capsys):
  folder = write_measures(ssim=np.float32(1))
  np.savez(folder / "attention_maps.npz", x=np.zeros(3))
  assert parity.main([str(folder)]) == 0
  out = capsys.readouterr().out
  for name in ("eval_metrics/ssim", "attention_maps.npz"):
    (line, *_) = [text for text in out.splitlines() if text.startswith(name)]
    assert "not compared" in line
  assert "1 pass, 0 FAIL, 2 not compared" in out


def test_a_broken_fixture_hides_no_other(write_measures, capsys):
  folder = write_measures()
  (folder / "stage1_a.json").write_text(json.dumps(
      {"task": "panoptic_task", "model": {}}))
  assert parity.main([str(folder)]) == 1
  out = capsys.readouterr().out
  assert "stage1_a_params.npz is missing" in out
  assert "1 pass, 1 FAIL" in out


# ── Made-up fixtures of what no released one shows ──────────────────────────


def draw(init):
  """Arrays of the shapes that `init` gives, drawn by numpy.

  To compile `init` takes seconds.
  """
  rng = np.random.default_rng(0)

  def noise(spec):
    return rng.normal(0, 0.5, spec.shape).astype(spec.dtype)

  return jax.tree.map(noise, jax.eval_shape(init, jax.random.key(0)))


def save(path, arrays):
  """Writes arrays by name; trees become names with slashes."""
  np.savez(path, **tree.flatten(jax.device_get(arrays)))


@pytest.fixture(scope="module")
def color(tmp_path_factory):
  """A folder with a color fixture that fits: (folder, its arrays)."""
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
  family = stage1.make_family(meta)
  arrays = draw(family.model.init)
  rng = np.random.default_rng(1)
  image = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  label = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
  batch = {"image": image, "labels": label}
  save(folder / "stage1_color_params.npz", {**arrays, "batch": batch})

  out = jax.jit(stage1.forward, static_argnums=0)(family, arrays, batch)
  out = {name: np.asarray(value) for name, value in out.items()
         if "_ratio" not in name}
  # By hand what the tool gets from the task.
  patches = label.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 5, 2, 4)
  patches = patches.reshape(2, 4, 3, 16)
  out["loss/loss_color"] = (out["logits/color"] - patches) ** 2
  pixels = out["logits/color"].reshape(2, 2, 2, 3, 4, 4)
  pixels = pixels.transpose(0, 1, 4, 2, 5, 3).reshape(2, 8, 8, 3)
  out["pred/color"] = np.clip(pixels, -1, 1)
  save(folder / "stage1_color_out.npz", out)
  return folder, out


def test_color_fixtures_are_understood(color, capsys):
  folder, out = color
  assert parity.main([str(folder)]) == 0
  assert f"{len(out)} quantities: {len(out)} pass" in capsys.readouterr().out


def test_one_wrong_array_is_one_line(color, tmp_path, capsys):
  folder, out = color
  for name in ("stage1_color.json", "stage1_color_params.npz"):
    shutil.copy(folder / name, tmp_path)
  wrong_code = (out["code"] + 1) % 8
  save(tmp_path / "stage1_color_out.npz", {**out, "code": wrong_code})
  assert parity.main([str(tmp_path)]) == 1
  lines = capsys.readouterr().out.splitlines()
  failed = [line.split()[0] for line in lines if "  FAIL" in line]
  assert failed == ["stage1_color_out/code"]


def decode_greedily_with_start_word(network, params, image):
  """Argmax over all words, the start word included, one full pass a word."""
  @jax.jit
  def logits_of(text):
    return network.apply({"params": params}, image, text)

  text = np.zeros((len(image), network.seq_len), np.int32)
  for position in range(network.seq_len):
    text[:, position] = np.argmax(logits_of(text)[:, position], axis=-1)
  logprobs = np.asarray(jax.nn.log_softmax(logits_of(text)))
  picked = np.take_along_axis(logprobs, text[..., None], axis=-1)
  return text, picked[..., 0]


def test_greedy_sequences_may_hold_the_start_word(tmp_path, capsys):
  config = {"num_layers": 1, "num_heads": 2, "mlp_dim": 8, "emb_dim": 8,
            "patches": {"size": [4, 4]}, "input_size": [4, 8], "seq_len": 5,
            "vocab_size": 7, "posemb_type": "learn", "dropout_rate": 0.0,
            "zero_decoder_seq": False}
  (tmp_path / "stage2_small.json").write_text(json.dumps({"config": config}))
  prior = stage2.make_prior(config)
  params = draw(prior.init)
  params["decoder"]["LogitsDense"]["bias"][0] -= 1
  rng = np.random.default_rng(2)
  image = rng.uniform(-1, 1, (12, 4, 8, 3)).astype(np.float32)
  text, logprobs = decode_greedily_with_start_word(prior.lm, params, image)
  is_whole = (text != 0).all(axis=1)
  assert 0 < is_whole.sum() < len(text)

  def report_on(text):
    save(tmp_path / "stage2_small_params.npz",
         {"image": image, "text": text, "params": params})
    save(tmp_path / "stage2_small_out.npz", {
        "greedy_seqs": text[:, None],
        "greedy_logprobs": logprobs[:, None],
        "greedy_scores": logprobs.sum(1)[:, None],
        "sample_T1": text[:, None],
        "sample_T1_logprobs": logprobs[:, None],
        "beam_scores": logprobs.sum(1)})
    status = parity.main([str(tmp_path)])
    return status, capsys.readouterr().out

  status, out = report_on(text)
  assert status == 0, out
  assert "3 pass, 0 FAIL, 2 informative, 1 not compared" in out
  assert f"{(~is_whole).sum()} of 12 hold the start word" in out
  for row in (np.argmax(is_whole), np.argmin(is_whole)):
    wrong = text.copy()
    wrong[row, -1] = wrong[row, -1] % 6 + 1
    status, _ = report_on(wrong)
    assert status == 1


def test_ops_are_compared_with_their_types(tmp_path, capsys):
  image = np.array([[[0, 51, 255]]], np.uint8)
  calls = {"wrong": "value_rnge(0, 1)", "scale": "value_range(0, 1)",
           "typed": 'copy("image", "labels")'}
  (tmp_path / "pp_ops.json").write_text(json.dumps({"calls": calls}))
  save(tmp_path / "pp_ops.npz", {
      "wrong/in/image": image, "wrong/out/image": image,
      "scale/in/image": image, "typed/in/image": image, "lost/out/image": image,
      "scale/out/image": np.float32([[[0, 0.2, 1]]]),
      "typed/out/labels": image.astype(np.int32)})
  assert parity.main([str(tmp_path)]) == 1
  lines = {}
  for line in capsys.readouterr().out.splitlines():
    lines[line.split("  ")[0]] = line
  assert "Did you mean 'value_range'" in lines["pp_ops/wrong"]
  assert "pass" in lines["pp_ops/scale/out/image"]
  assert "pass" in lines["pp_ops/typed/out/labels"]
  assert "FAIL" in lines["pp_ops/typed/out/labels dtype"]
  assert "not compared" in lines["pp_ops/lost/out/image"]


def test_one_bit_of_a_momentum_passes_and_a_small_error_of_all_does_not():
  before = np.ones(2000, np.float32)
  theirs = before + np.float32(0.01)
  one_bit = theirs.copy()
  one_bit[7] += 0.01 * 2.0**-9
  too_much = theirs.copy()
  too_much[7] += 0.01 * 2.0**-6
  too_many = theirs + np.float32(3e-5)
  for ours, expected in ((one_bit, "pass"), (too_much, "FAIL"),
                         (too_many, "FAIL")):
    quantity = Quantity("x/params_after2/a", ours, theirs)
    allowed = optimizer.allow_last_bits(quantity, before)
    assert common.judge(allowed).status == expected


# ── The released implementation's ───────────────────────────────────────────


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
