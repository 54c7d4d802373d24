"""The pairs that are written: they build, fit their data, and train."""

import dataclasses

import jax
import numpy as np
import pytest
import tensorflow as tf

import evaluators
from pp import builder, sources, splits
from tests.tools.prepare import raw_files, raw_masks
from tests.trainers import tiny
from tools import show_config
from tools.make_config import __main__ as make_config
from tools.make_config import pair, plan, survey
from tools.make_config.cost import Machine
from tools.prepare import __main__ as prepare_data
from trainers import config_file, preflight
from trainers.families.lm import LmFamily
from trainers.families.vqvae import VqvaeFamily
from trainers.report import pairs as report_pairs
from uvim import files
from uvim.config import resolve
from uvim.registry import ConfigError

# A folder that no other test imports from.
OUT = "pairs_of_this_test"
BATCH_SIZE = 8
MACHINE = Machine("2 cores", 1e11, 8, 2)
# Data set → its task.
TASKS = {
    "regions": survey.SEMANTIC,
    "objects": survey.PANOPTIC,
    "depths": survey.DEPTH,
    "photos": survey.COLORIZATION,
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """The current folder, with four data sets below `data` and their pairs."""
  folder = tmp_path_factory.mktemp("pairs")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    make_data(folder)
    for name in TASKS:
      facts = survey.survey(name, str(folder / "data"))
      chosen = plan.make_plan(facts, MACHINE, minutes=60)
      pair.write(chosen, pair.make_target(OUT, name))
    yield folder


def make_data(folder):
  """Three images a data set, of 8 × 10 pixels."""
  masks = folder / "masks"
  masks.mkdir()
  raw = raw_masks.RawMasks(masks)
  raw.data_dir = folder / "data"
  things = {"things": ["cup", "box"]}
  assert prepare_data.main(raw.argv(name="regions", **things)) == 0
  # In the maps of instances two cups touch.
  for name in ("a", "b", "street/c"):
    path = folder / "instances" / f"{name}.png"
    raw_files.save(path, raw_masks.instance_map())
  argv = raw.argv(command="instances", name="objects", min_area=1,
                  instances=folder / "instances", **things)
  assert prepare_data.main(argv) == 0
  rng = np.random.default_rng(0)
  for name in "abc":
    depth_HW = rng.integers(900, 4000, (8, 10), np.uint16)
    raw_files.save(folder / "maps" / f"{name}.png", depth_HW)
    raw_files.save(folder / "colors" / f"{name}.jpg", raw_files.gradient(8, 10))
  options = dict(images=folder / "colors", split="train")
  assert prepare_data.main(raw_files.arguments(
      "rgbd", folder / "data", name="depths", depth=folder / "maps",
      **options)) == 0
  assert prepare_data.main(raw_files.arguments(
      "images", folder / "data", name="photos", **options)) == 0


def load(kind, name, *changes):
  return resolve(config_file.load_config(
      f"{OUT}/{kind}_{name}.py", changes))


def open_split(config):
  return splits.open_split(config.dataset, config.train_split, config.data_dir)


def save_zeros(family, path):
  """A checkpoint of the shapes of a family."""
  zeros = jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype), family.wanted_arrays())
  files.save_npz(path, zeros)


def make_batch(config, pp):
  """A batch of the first example of the data, preprocessed by `pp`."""
  source = sources.make_source(
      config.dataset, config.train_split, config.data_dir)
  seed = tf.constant([0, 0], tf.int64)
  example = builder.build(pp)(source.tensors(0), seed)
  batch = {"image/id": np.zeros(BATCH_SIZE, np.uint32)}
  for key in ("image", "labels"):
    if key in example:
      batch[key] = np.stack([example[key].numpy()] * BATCH_SIZE)
  return batch


def trace_loss(family, batch):
  """The shape of the loss of a batch."""
  params, extra = jax.eval_shape(family.init, jax.random.key(0))
  rngs_B = jax.random.split(jax.random.key(0), BATCH_SIZE)
  frozen = tiny.open_family(family).frozen
  loss, _ = jax.eval_shape(
      family.loss, params, extra, frozen, batch, rngs_B, 0)
  return loss.shape


def check_fit(family):
  """Whether classes, labels, batches and truth fit the model."""
  config = family.config
  preflight.check_classes(family.task, open_split(config))
  batch = make_batch(config, config.pp_train)
  family.check_batch(batch)
  preflight.check_labels(family.task, batch, "train")
  for block in config.evals:
    batch = make_batch(config, block.pp)
    assert batch["image"].shape[1:3] == config.model["input_size"]
    split = splits.open_split(block.dataset, block.split, block.data_dir)
    evaluator = evaluators.make_evaluator(block.type, split, block.options)
    truth = evaluator.read_truth(0)
    assert truth is None or not evaluator.truth_problem(truth)


@pytest.mark.parametrize("name", TASKS)
def test_both_stages_fit_the_data(here, name, caplog):
  config = load("vqvae", name)
  assert config.task == TASKS[name]
  assert (config.train_split, config.val_split) == ("train[:2]", "train[2:]")
  stage1 = VqvaeFamily(config)
  check_fit(stage1)
  batch = make_batch(config, config.pp_train)
  assert trace_loss(stage1, batch) == ()

  save_zeros(stage1, here / f"{name}.npz")
  config = load("lm", name, f"--config.oracle.model_init={name}.npz")
  assert config.oracle.task == TASKS[name]
  stage2 = LmFamily(config)
  check_fit(stage2)
  assert trace_loss(stage2, batch) == ()
  # The labels have no flaw to warn of.
  assert not caplog.records
  for block in config.evals:
    batch = make_batch(config, block.pp)
    assert ("labels" in batch) == (block.name in ("val", "oracle_code"))


@pytest.mark.parametrize("name", TASKS)
def test_every_gap_has_its_scores(here, name):
  config = load("vqvae", name)
  scored = {block.name: block.pred for block in config.evals}
  assert scored == {"val": "loss", "oracle_code": "predict",
                    "zero_code": "zero_code"}
  config = load("lm", name)
  evals = [dataclasses.asdict(block) for block in config.evals]
  for other in (report_pairs.ORACLE, report_pairs.NO_CODE):
    assert report_pairs.pairs_of(evals, other)
  temperatures = {}
  for block in config.evals:
    if block.name.startswith("uvim"):
      temperatures[block.name] = block.pred_kw["temperature"]
  assert temperatures == {
      "uvim": 0.0, "uvim_soft": 0.0, "uvim_sampled": 1.0}


def test_both_stages_take_a_step(here):
  small = {"width": 16, "mlp_dim": 16, "num_heads": 2, "oracle_depth": 1,
           "base_model_depth": 1}
  config = load("vqvae", "objects", *overrides("model", small))
  stage1 = VqvaeFamily(config)
  take_step(stage1)
  tiny.save_stage_i(stage1, here / "one.npz")
  small_lm = {"emb_dim": 16, "mlp_dim": 16, "num_heads": 2, "num_layers": 1}
  config = load(
      "lm", "objects", "--config.oracle.model_init=one.npz",
      *overrides("oracle.model", small), *overrides("model", small_lm))
  take_step(LmFamily(config))


def overrides(block, values):
  return [f"--config.{block}.{key}={value}" for key, value in values.items()]


def take_step(family):
  """Takes a step on a batch of the data."""
  batch = make_batch(family.config, family.config.pp_train)
  _, (log,) = tiny.run(family, steps=1, mesh=[("data", 1)],
                       batches=lambda step: batch)
  assert np.isfinite(log["loss"]) and np.isfinite(log["grad_norm"])


def test_colors_are_scored_at_the_size_of_the_labels(here):
  config = load("vqvae", "photos")
  for block in config.evals:
    if block.type == "psnr":
      split = splits.open_split(block.dataset, block.split, block.data_dir)
      evaluator = evaluators.make_evaluator(block.type, split, block.options)
      gray = {"color": np.zeros((*config.model["input_size"], 3))}
      # Another size is an error.
      state = evaluator.update(
          evaluator.initial(), gray, evaluator.read_truth(0))
      assert np.isfinite(evaluator.result(state)["PSNR"])


def test_an_encoder_sees_a_larger_image(here):
  for kind in ("vqvae", "lm"):
    config = resolve(config_file.load_config(
        f"{OUT}/{kind}_photos.py:encoder=e.npz"))
    assert config.model_init == {"image_encoder": "e.npz"}
    height, width = config.model["image_encoder"]["input_size"]
    assert height % 14 == width % 14 == 0
    assert f"resize({(height, width)}" in config.pp_train


def test_show_config_prints_both(here, capsys):
  for kind in ("vqvae", "lm"):
    assert show_config.main([f"{OUT}/{kind}_regions.py"]) == 0
    assert f"python -m trainers.{kind}" in capsys.readouterr().out


def test_lines_are_short(here):
  for path in (here / OUT).glob("*.py"):
    for line in path.read_text().splitlines():
      # A data_dir is as long as it is.
      assert len(line) <= 80 or "data_dir" in line, line


def test_a_wrong_class_count_is_refused_before_training(here):
  path = here / OUT / "vqvae_regions.py"
  wrong = path.read_text().replace('"semantics": 4 + 1', '"semantics": 7 + 1')
  (here / OUT / "vqvae_wrong.py").write_text(wrong)
  config = load("vqvae", "wrong")
  with pytest.raises(ConfigError, match="has 4 categories.*is for 7 and void"):
    preflight.check_classes(VqvaeFamily(config).task, open_split(config))


# ── The commands ────────────────────────────────────────────────────────────


def test_the_data_set_and_its_pair_in_one_command(here, capsys):
  argv = raw_files.arguments(
      "images", here / "data", images=here / "colors", name="more",
      split="train", config_out=OUT)
  assert prepare_data.main(argv) == 0
  shown = capsys.readouterr().out
  for text in (f"python -m trainers.vqvae --config {OUT}/vqvae_more.py",
               f"python -m trainers.lm --config {OUT}/lm_more.py",
               "--config.oracle.model_init=workdirs/more/stage1",
               "python -m tools.predict", " minute"):
    assert text in shown
  written = (here / OUT / "vqvae_more.py").read_text()
  # Neither command replaces a file that is there.
  message = raw_files.failure([*argv, "--overwrite"], capsys)
  assert "--config_out: 'pairs_of_this_test/vqvae_more.py' is there" in message
  assert make_config.main(["--name", "more", "--out", OUT]) == 2
  assert "--overwrite replaces it" in capsys.readouterr().err
  assert (here / OUT / "vqvae_more.py").read_text() == written


@pytest.mark.parametrize("out,words", [
    ("../elsewhere", "a folder below the current one"),
    (".", "a folder below the current one"),
    ("my-configs", "of letters, digits and _"),
    ("json", "'json' is the name of a Python package")])
def test_a_folder_that_stage_ii_cannot_import_from(here, capsys, out, words):
  assert make_config.main(["--name", "photos", "--out", out]) == 2
  assert words in capsys.readouterr().err


def test_a_data_set_without_train_is_refused(here, capsys):
  argv = raw_files.arguments(
      "images", here / "data", images=here / "colors", name="late",
      split="validation")
  assert prepare_data.main(argv) == 0
  argv = ["--name", "late", "--data_dir", str(here / "data"), "--out", OUT]
  assert make_config.main(argv) == 2
  message = capsys.readouterr().err
  assert "needs a split 'train'" in message
  assert "validation (3)" in message


# ── What is measured ────────────────────────────────────────────────────────


def test_what_is_found_in_segments(here):
  data_dir = str(here / "data")
  segments = survey.survey("regions", data_dir).segments
  # Wall, floor, two cups and a box; 9 + 9 + 4 of 80 pixels are things.
  assert segments.counts_M.tolist() == [5, 5]
  assert sorted(80 * segments.thing_shares_S) == pytest.approx(
      [4, 4, 9, 9, 9, 9])
  assert segments.touching_share == 0
  assert segments.is_stuff_merged
  assert segments.void_share == pytest.approx(0)
  segments = survey.survey("objects", data_dir).segments
  # Two of the four things are halves of a cup.
  assert segments.touching_share == 0.5


def test_what_is_found_in_depth(here):
  depths = survey.survey("depths", str(here / "data")).depths
  assert 0.9 <= depths.nearest < 1.2
  assert 3.7 < depths.farthest < 4
  assert depths.valid_share == 1


def test_a_split_to_score_is_taken_if_there_is_one(here, capsys):
  argv = raw_files.arguments(
      "images", here / "data", images=here / "colors", name="depths_too",
      split="train")
  assert prepare_data.main(argv) == 0
  for split in ("test", "val"):
    argv[argv.index("--split") + 1] = split
    assert prepare_data.main(argv) == 0
  splits = survey.find_splits("depths_too", str(here / "data"))
  assert (splits.train, splits.held_out) == ("train", "val")
