"""Pre-training by a masked autoencoder, through the one train loop."""

import shutil

import jax
import numpy as np
import pytest

from configs import mae_rooms
from tests.trainers import tiny
from trainers import loop
from trainers.families import make_family
from trainers.families.compiled import Compiled
from trainers.report import run_page
from uvim import tree
from uvim.config import resolve
from uvim.encoders import image_encoder
from uvim.encoders.base import POSITIONS
from uvim.models import mae_network, make_model
from uvim.registry import ConfigError
from uvim.store import checkpoint, start_from

MODEL = dict(
    input_size=(16, 16), patch_size=(4, 4), width=16, depth=1, mlp_dim=16,
    num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
STEPS = 4
# Loss and norm of the gradient of the first steps.
GOLDEN = [[1.280412, 0.620590], [1.151888, 0.399423], [1.085486, 0.276332]]


def family(**changes):
  return make_family(resolve(dict(
      dataset="none", train_split="train", batch_size=8, pp_train="",
      model_name="mae", model=MODEL, lr=0.01, wd=0.1, total_steps=20,
      optax_name="scale_by_adam") | changes))


@pytest.fixture(scope="module")
def trained():
  return tiny.run(family(), steps=STEPS, mesh=[("data", 1)])


def predictions(name, state, batch, **options):
  model = family()
  variables = model.variables(state.params, state.extra, None)
  return jax.device_get(Compiled(model)(name, **options)(variables, batch))


def test_it_learns_and_leaves_the_waves_alone(trained):
  state, logs = trained
  assert logs[-1]["loss"] < logs[0]["loss"]
  waves = mae_network.waves((4, 4), 16)
  np.testing.assert_array_equal(state.params[POSITIONS], waves)


def test_golden_steps(trained):
  _, logs = trained
  for found, (loss, norm) in zip(logs[:3], GOLDEN, strict=True):
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-3)


def test_parts_and_devices_change_nothing(trained):
  model = family(grad_accum_steps=2)
  _, logs = tiny.run(model, steps=STEPS, mesh=[("data", 4)])
  for ours, theirs in zip(logs, trained[1], strict=True):
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)


def test_the_validation_loss_is_the_same_every_time(trained):
  state, _ = trained
  batch = tiny.batch()
  first = predictions("loss", state, batch)["loss"]
  np.testing.assert_array_equal(
      predictions("loss", state, batch)["loss"], first)
  # In another order, each example keeps its mask.
  turned = {name: array[::-1] for name, array in batch.items()}
  np.testing.assert_allclose(
      predictions("loss", state, turned)["loss"], first[::-1], rtol=1e-5)
  other = predictions("loss", state, batch, seed=1)["loss"]
  assert np.abs(other - first).max() > 1e-3


def test_a_panel_shows_what_was_hidden(trained):
  state, _ = trained
  model = family()
  batch = tiny.batch()
  variables = model.variables(state.params, state.extra, None)
  columns = model.panel(Compiled(model), variables, batch)
  assert list(columns) == ["image", "masked", "reconstruction"]
  for images in columns.values():
    assert images.shape == (8, 16, 16, 3)
    assert images.dtype == np.uint8
  is_gray = (columns["masked"] == 127).all(-1)
  np.testing.assert_allclose(is_gray.mean(), 0.75, atol=0.01)
  # Elsewhere the image stays as it is.
  for title in ("masked", "reconstruction"):
    np.testing.assert_array_equal(
        columns[title][~is_gray], columns["image"][~is_gray])


@pytest.fixture(scope="module")
def workdir(rooms_tiny_dir, tmp_path_factory):
  """A run that was resumed after it lost its last steps."""
  config = mae_rooms.get_config("tiny")
  config.data_dir = str(rooms_tiny_dir)
  config.mesh = (("data", 1),)
  config = resolve(config)
  workdir = tmp_path_factory.mktemp("mae") / "run"
  metrics = loop.train(config, workdir)
  assert np.isfinite(metrics["val/loss"])
  shutil.rmtree(workdir / "checkpoints" / "4")
  again = loop.train(config, workdir)
  # A resumed run equals an unbroken one.
  assert again["val/loss"] == metrics["val/loss"]
  return workdir


def test_a_run_leaves_a_report_with_pictures(workdir):
  assert list((workdir / "pictures").iterdir())
  assert "MAE: images on rooms/tiny" in (workdir / run_page.PAGE).read_text()


def stage_ii_shapes(grid):
  """Shapes of a language model whose encoder has the sizes of the run."""
  rows, columns = grid
  lm = make_model("lm", dict(
      num_layers=1, num_heads=4, mlp_dim=32, emb_dim=32,
      patches={"size": (8, 8)}, input_size=(8 * rows, 8 * columns),
      vocab_size=9, seq_len=4), "config.model")
  return jax.eval_shape(lm.init, jax.random.key(0)), lm.encoder_specs


@pytest.mark.parametrize("grid", [(6, 6), (6, 8)])
def test_stage_ii_starts_from_a_run(workdir, grid):
  shapes, specs = stage_ii_shapes(grid)
  found = start_from.Store().read_start(
      {"encoder": str(workdir)}, {"params": shapes}, kind="lm",
      encoder_specs=specs)
  trained = tree.flatten(checkpoint.load_params(workdir))
  assert len(found) > 15
  for name, array in found.items():
    if name == "params/pos_embedding_encoder" and grid != (6, 6):
      assert array.shape == (1, 48, 32)
    else:
      np.testing.assert_array_equal(array, trained[name])


def test_an_image_encoder_starts_from_a_run(workdir):
  encoder = image_encoder.make(dict(
      input_size=(48, 48), family="augreg", depth=1, width=32, mlp_dim=32,
      num_heads=4, patch_size=(8, 8)), "config.model.image_encoder")
  shapes = jax.eval_shape(encoder.init, jax.random.key(0))
  found = start_from.Store().read_start(
      {"image_encoder": str(workdir)},
      {"params": {"image_encoder": shapes}}, kind="vqvae",
      encoder_specs={"image_encoder": encoder.spec})
  trained = tree.flatten(checkpoint.load_params(workdir))
  assert len(found) == len(jax.tree.leaves(shapes))
  for name, array in found.items():
    np.testing.assert_array_equal(
        array, trained[name.replace("image_encoder/", "")])


@pytest.mark.parametrize("changes,words", [
    (dict(task="depth"), "config.task"),
    (dict(model=MODEL | dict(mask_ratio=2)), "mask_ratio"),
])
def test_a_mistake_is_named(changes, words):
  with pytest.raises(ConfigError, match=words):
    family(**changes)


def test_images_of_another_size_are_refused():
  batch = {"image": np.zeros((2, 8, 16, 3), np.float32)}
  with pytest.raises(ConfigError, match="input_size"):
    family().check_batch(batch)
  with pytest.raises(ConfigError, match="'image'"):
    family().check_batch({"labels": batch["image"]})
