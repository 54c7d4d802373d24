"""The probe learns from features, counts segments and scores a whole split."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs import lm_rooms_panoptic, vqvae_rooms_depth, vqvae_rooms_panoptic
from tools.probe import __main__ as command
from tools.probe import examples, head, rivals, run
from uvim import files, palette
from uvim.categories import Category
from uvim.config import resolve
from uvim.encoders import image_encoder
from uvim.registry import ConfigError
from uvim.tasks import make_task
from uvim.tasks.normals import NormalsTask

BLOCK = dict(family="augreg", variant="S/14", depth=1, width=16, mlp_dim=16,
             num_heads=2, patch_size=(8, 8), input_size=(24, 32))
CATEGORIES = (Category(1, "wall", False), Category(2, "chair", True))


@pytest.fixture(scope="module")
def encoder():
  return image_encoder.make(BLOCK, "test")


@pytest.fixture(scope="module")
def weights(encoder, tmp_path_factory):
  path = tmp_path_factory.mktemp("encoder") / "encoder.npz"
  params = encoder.init(jax.random.key(0))
  params = jax.tree.map(np.asarray, params)
  files.save_npz(path, {"params": {"image_encoder": params}})
  return path


def panoptic_rival(min_fraction=0.0):
  spec = {"semantics": (3, 4), "instances": (4, 4)}
  sizes = dict(inputs=spec, outputs=spec, input_size=(8, 8), patch_size=(2, 2))
  task = make_task("panoptic_segmentation", sizes)
  return rivals.PanopticRival(task, CATEGORIES, min_fraction)


def logits_of(rival, classes_HW):
  """Logits that are certain of these classes, [1, N, K, P]."""
  classes_HW2 = np.stack([classes_HW, 0 * classes_HW], axis=-1)
  ids = rival.task.encode_labels(classes_HW2[None])["semantics"]
  one_hot_BNPK = np.eye(3, dtype=np.float32)[ids]
  return one_hot_BNPK.swapaxes(2, 3)


def test_things_are_connected_pixels_and_stuff_is_one_segment():
  classes = np.full((8, 8), 1)
  classes[:, 3] = 2  # A chair that cuts the wall in two …
  classes[2:4, 6:] = 2  # … and another.
  classes[7, 7] = 2  # One pixel.
  rival = panoptic_rival(min_fraction=2 / 64)
  panoptic, = rival.outputs(logits_of(rival, classes))["panoptic"]
  np.testing.assert_array_equal(panoptic[:, :3, 0], 1)
  wall = {tuple(pair) for pair in panoptic[classes == 1].tolist()}
  assert len(wall) == 1
  first = {tuple(pair) for pair in panoptic[:, 3].tolist()}
  second = {tuple(pair) for pair in panoptic[2:4, 6:].reshape(-1, 2).tolist()}
  assert len(first) == len(second) == 1 and first != second
  assert panoptic[7, 7].tolist() == [0, 0]  # Too small.


def test_void_is_neither_learned_nor_predicted():
  rival = panoptic_rival()
  labels = np.zeros((1, 8, 8, 2), np.int32)
  labels[:, :4] = 2
  labels[:, 7] = 9  # Beyond the classes.
  ids = rival.ids({"labels": labels})
  assert sorted(np.unique(ids).tolist()) == [-1, 2]
  assert (ids == 2).sum() == 32
  logits = logits_of(rival, np.zeros((8, 8), int))
  assert rival.classes(logits).min() == 1


def test_accuracy_and_iou_are_those_of_the_counts():
  counts = np.array([[0, 0, 0], [0, 6, 2], [0, 1, 1]])
  got = panoptic_rival().accuracy(counts)
  assert got["pixel_accuracy"] == pytest.approx(70)
  assert got["mIoU"] == pytest.approx(100 * (6 / 9 + 1 / 4) / 2)


def test_a_head_learns_the_classes_of_each_pixel_of_a_token():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(40, 6, 8)).astype(np.float16)
  # Pixel p has class 1 where number p of the features is positive.
  ids = np.int32(features[..., :4] > 0)
  ids[:, 0] = -1
  is_good = np.ones(40, bool)
  seen = examples.Examples(features, ids, np.arange(40), is_good, {})
  settings = head.Settings(
      num_classes=2, num_pixels=4, hidden=32, steps=200, batch_size=100,
      lr=1e-2)
  trained = head.train(settings, seen)
  predicted = np.argmax(trained(features), axis=-2)
  assert (predicted[:, 1:] == ids[:, 1:]).mean() > 0.97
  # The order is drawn from the seed alone.
  again = head.train(settings, seen)
  np.testing.assert_array_equal(trained(features), again(features))
  nothing = examples.Examples(
      features, np.full_like(ids, -1), np.arange(40), is_good, {})
  with pytest.raises(ConfigError, match="No pixel of config.train_split"):
    head.train(settings, nothing)


def test_only_the_sizes_of_a_string_change():
  pp = ('decode|resize(48, antialias=True)|value_range(-1, 1)|'
        'resize((48, 64), key="labels", method="nearest")|'
        'resize(48, inkey="image", outkey="image_ctx")|keep("image","labels")')
  got = examples.resized(pp, (24, 32), (12, 16))
  assert got == (
      "decode|resize((24, 32), antialias=True)|value_range(-1, 1)|"
      "resize((12, 16), key='labels', method='nearest')|"
      'resize(48, inkey="image", outkey="image_ctx")|keep("image","labels")')


def config_of(module, rooms_tiny_dir):
  config = module.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  return resolve(config)


@pytest.mark.parametrize("module, metric", [
    (vqvae_rooms_panoptic, "PQ"), (vqvae_rooms_depth, "RMSE")])
def test_a_split_is_scored_by_the_evaluator_of_the_config(
    module, metric, rooms_tiny_dir, encoder, weights, tmp_path):
  config = config_of(module, rooms_tiny_dir)
  results, picture = run.probe(
      config, encoder, str(weights), cells=2, hidden=8, steps=3, mirror=True)
  named = {name.upper(): value for name, value in results["metrics"].items()}
  assert np.isfinite(named[metric])
  assert results["images"] == 8
  command.write(tmp_path, results, picture)
  assert json.loads((tmp_path / "results.json").read_text()) == json.loads(
      json.dumps(results))
  assert (tmp_path / "predictions.png").stat().st_size > 1000
  assert metric in command.report(results).upper()


def test_the_colors_of_the_drawing_are_named(rooms_tiny_dir, encoder):
  config = config_of(vqvae_rooms_panoptic, rooms_tiny_dir)
  plan = run.make_plan(config, encoder, 2, 0.0)
  drawn = Image.new("RGB", (200, 50))
  batch = {"labels": np.zeros((1, 6, 8, 2), np.int32)}
  explained = np.asarray(run.with_legend(drawn, plan, batch))[50:]
  colors = set(map(tuple, explained.reshape(-1, 3).tolist()))
  for number, _ in enumerate(plan.split.categories, 1):
    assert tuple(palette.class_color(number).tolist()) in colors


def test_mirror_images_have_mirrored_labels(
    rooms_tiny_dir, encoder, weights):
  from pp import splits
  config = config_of(vqvae_rooms_panoptic, rooms_tiny_dir)
  task, rival_of_task = run.make_task_of_head(config, encoder, 2)
  split = splits.open_split(config.dataset, "validation[:3]", config.data_dir)
  rival = rival_of_task(task, split.categories, 0.0)
  pp = examples.resized(config.pp_eval, encoder.input_size, task.input_size)

  def see(image):
    # The mean brightness of each token.
    means = np.asarray(image).reshape(-1, 3, 8, 4, 8, 3).mean((2, 4))
    return means.reshape(-1, 12, 3)

  seen = examples.read(config, split, pp, rival, see, mirror=True)
  # Batches are padded to 8: as they are, then mirrored.
  features = seen.features_MTD.reshape(2, 8, 3, 4, 3)
  np.testing.assert_allclose(
      features[0, :3], features[1, :3, :, ::-1], atol=1e-6)
  ids = seen.ids_MTP.reshape(2, 8, 3, 4, 2, 2)
  np.testing.assert_array_equal(
      ids[0, :3], ids[1, :3, :, ::-1, :, ::-1])
  assert (ids[:, :3] > 0).any()
  assert (ids[:, 3:] == -1).all()  # Padding.
  assert seen.is_good_M.sum() == 6


@pytest.mark.parametrize("argv, message", [
    (["--cells=0"], "--cells = 0; allowed: 1 to 64."),
    (["--min_fraction=1"], "--min_fraction = 1.0; allowed: 0 or more"),
    (["--input_size=24"], "--input_size: '24'; allowed: height,width"),
    ([], "--input_size is missing"),
    (["--input_size=24,32"], "must be a multiple of the patch"),
    (["--input_size=28,28"], "--encoder is missing"),
])
def test_mistakes_are_one_line(argv, message, capsys, tmp_path):
  code = command.main(["--config=configs/vqvae_rooms_panoptic.py:tiny",
                       f"--out={tmp_path}", *argv])
  assert code == 2
  error, = capsys.readouterr().err.splitlines()
  assert message in error


def test_what_the_probe_cannot_score_is_refused(rooms_tiny_dir):
  config = lm_rooms_panoptic.get_config("tiny")
  with pytest.raises(ConfigError, match="of kind 'lm'; the probe takes one"):
    run.evaluator_block(resolve(config))
  with pytest.raises(ConfigError, match="semantics and depth alone"):
    rivals.rival_class(NormalsTask)
