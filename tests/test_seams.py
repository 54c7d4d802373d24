"""A new quantizer, prior, backbone, task, family: one class, one table entry.

Each toy below trains two steps through the real loop, is saved and predicts,
without a change to any other file. Those that keep something of their own are
resumed too.
"""

import dataclasses
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import lm_rooms_panoptic, vqvae_rooms_panoptic
from tools import cache_arrays
from trainers import families, loop, scoring
from trainers.families.base import Family, Report
from trainers.families.drawing import draw_columns
from trainers.families.vqvae import VqvaeFamily
from uvim import fields, files, tasks
from uvim.codes import QUANTIZERS, usage
from uvim.codes.base import Coded, Quantizer
from uvim.config import resolve
from uvim.inference.api import UViM
from uvim.nn import losses
from uvim.nn.backbones import BACKBONES
from uvim.nn.backbones.base import Backbone
from uvim.priors import PRIORS
from uvim.priors.base import Prior, Samples
from uvim.store import checkpoint
from uvim.tasks import base


@dataclasses.dataclass(frozen=True)
class SignQuantizer(Quantizer):
  """A word is the signs of its vector, read as a binary number."""
  num_signs: int = fields.field(doc="Signs of a word.",
                                check=fields.integer(1, 16))

  num_words = property(lambda self: 2 ** self.num_signs)
  oracle_dim = property(lambda self: self.num_signs)
  vector_dim = property(lambda self: self.num_signs)

  def encode(self, arrays, x_BLE, rngs_B=None, step=None):
    weights_E = 2 ** jnp.arange(self.num_signs)
    code_BL = jnp.sum((x_BLE > 0) * weights_E[None, None], -1)
    z_BLE = x_BLE + jax.lax.stop_gradient(self.embed(arrays, code_BL) - x_BLE)
    return Coded(z_BLE, code_BL, jnp.zeros(len(x_BLE)),
                 {"counts": usage.histogram(code_BL, self.num_words)}, {})

  def embed(self, arrays, code, dropped_BL=None):
    bits = (code[..., None] >> jnp.arange(self.num_signs)[None, None]) & 1
    z_BLE = 2.0 * bits - 1.0
    return z_BLE if dropped_BL is None else self.drop(arrays, z_BLE, dropped_BL)

  def usage(self, stats):
    return stats["counts"]


@dataclasses.dataclass(frozen=True)
class TablePrior(Prior):
  """A distribution for each place, the same for every image."""
  spec_shape: tuple[int, int]
  input_size: tuple[int, int]
  options = {"sharpness": fields.Field("sharpness", 1.0,
                                       check=fields.number(0))}

  @classmethod
  def from_fields(cls, model_fields, where):
    known = {name: fields.Field(name) for name in (
        "seq_len", "vocab_size", "input_size")}
    fields.check_fields(known, model_fields, where)
    size = tuple(model_fields["input_size"])
    return cls((model_fields["seq_len"], model_fields["vocab_size"] - 1), size)

  def check_code(self, spec, where):
    assert self.spec_shape == (spec.length, spec.num_words)

  def init(self, rng):
    return {"table": 0.1 * jax.random.normal(rng, self.spec_shape)}

  def log_prob(self, params, image, code):
    table_LQ = jax.nn.log_softmax(params["table"])
    table_BLQ = jnp.broadcast_to(
        table_LQ[None], (len(code), *self.spec_shape))
    return jnp.take_along_axis(table_BLQ, code[..., None], -1)[..., 0]

  def loss(self, params, image, code, rngs_B=None):
    return -jnp.mean(self.log_prob(params, image, code), 1), {}

  def sample(self, params, image, seeds_B, *, num_samples=1, given=None,
             sharpness=1.0):
    def draw(seed):
      keys_S = jax.random.split(jax.random.key(seed), num_samples)
      return jax.vmap(lambda key: jax.random.categorical(
          key, sharpness * params["table"]))(keys_S)
    return Samples(jax.vmap(draw)(jnp.asarray(seeds_B)), None)


class MeanColorBackbone(Backbone):
  """A token is a linear map of the mean color of its patch."""

  @nn.compact
  def __call__(self, image):
    rows, columns = self.grid_size
    image_BHWC = jax.image.resize(
        image, (len(image), rows, columns, 3), "linear")
    colors_BNC = image_BHWC.reshape(len(image), rows * columns, 3)
    return nn.Dense(self.width, name="embed_color")(colors_BNC)


class GreyTask(base.RealTask):
  """Predicts how bright each pixel's class number is."""
  keys = ("grey",)
  label_channels = 1
  meaning = "a grey level"

  def encode_labels(self, labels):
    return super().encode_labels(
        labels[..., :1].astype(jnp.float32) / 13)

  def loss(self, logits, x):
    error = jnp.square(logits["grey"].astype(jnp.float32) - x["grey"])
    loss_B = losses.per_example_mean(error)
    return loss_B, {"loss_grey": loss_B}

  def outputs(self, logits):
    return {"grey": self.pixels(logits)}

  def truth(self, batch):
    return {"grey": batch["labels"][..., :1] / 13}

  def render(self, outputs):
    grey = np.clip(np.asarray(outputs["grey"]), 0, 1)
    return np.uint8(np.repeat(grey * 255, 3, -1))


class MeanColorFamily(Family):
  """Learns one color and its running average; has no code."""
  kind = "mean_color"

  def __init__(self, config):
    super().__init__(config)
    self.task = tasks.make_task(config.task, config.model)
    self.predictors = {"predict": self.predict, "loss": self.eval_loss}

  def init(self, rng):
    color = jax.random.normal(rng, (3,))
    return {"color": color}, {"ema": {"color": color}}

  def check_batch(self, batch):
    assert "image" in batch

  def _loss_of_each(self, params, batch):
    error = batch["image"] - params["color"][None, None, None]
    return jnp.mean(jnp.square(error), (1, 2, 3))

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    loss = jnp.mean(self._loss_of_each(params, batch))
    return loss, Report({"brightness": jnp.mean(params["color"])}, None)

  def after_step(self, params, extra, stats, rng, starts_epoch):
    ema = jax.tree.map(lambda old, new: (old + new) / 2, extra["ema"], params)
    return {"ema": ema}, {}

  def predict(self, variables, batch):
    color = variables["params"]["color"]
    shape = batch["image"].shape
    return {"color": jnp.broadcast_to(color[None, None, None], shape)}

  def eval_loss(self, variables, batch):
    return {"loss": self._loss_of_each(variables["params"], batch)}

  def panel(self, predict, variables, batch):
    out = predict("predict")(variables, batch)
    panoptic = {"panoptic": np.zeros((*out["color"].shape[:3], 2), np.int32)}
    return draw_columns(self.task, batch, {"nothing": panoptic})


@pytest.fixture
def toys(monkeypatch):
  """The one table entry of each toy."""
  monkeypatch.setitem(QUANTIZERS, "signs", SignQuantizer)
  monkeypatch.setitem(PRIORS, "table", TablePrior)
  monkeypatch.setitem(BACKBONES, "mean_color", MeanColorBackbone)
  monkeypatch.setitem(tasks.TASKS, "grey", lambda: GreyTask)
  monkeypatch.setitem(families.FAMILIES, "mean_color", MeanColorFamily)


@pytest.fixture(scope="module")
def data(rooms_tiny_dir, tmp_path_factory):
  """Fields that make a config read arrays of `rooms/tiny`.

  With TensorFlow, each run would trace its preprocessing for seconds.
  """
  folder = tmp_path_factory.mktemp("arrays")
  config = resolve(stage_i({"data_dir": str(rooms_tiny_dir)}))
  cache_arrays.write(config, folder, augmentations=1)
  return {"dataset": f"arrays:{folder}"}


def stage_i(data):
  """Two steps on `rooms/tiny`; the config is unlocked."""
  config = vqvae_rooms_panoptic.get_config("tiny")
  config.unlock()
  config.update(data)
  config.total_steps = config.log_eval_steps = config.checkpoint_steps = 2
  # On one device, which is quicker to compile and to save.
  config.mesh = (("data", 1),)
  config.val_split = None
  config.evals = [("score", "mean")]
  config.score = dict(split="validation[:8]", pp=config.pp_eval, pred="loss",
                      log_steps=2)
  del config.oracle_code, config.zero_code
  return config


def train_and_resume(config, workdir):
  """Trains three steps, of which the last is lost and trained again."""
  config = dataclasses.replace(resolve(config), total_steps=3)
  metrics = loop.train(config, workdir)
  assert '"step": 2' in (workdir / "metrics.jsonl").read_text()
  shutil.rmtree(workdir / "checkpoints" / "3")
  loop.train(config, workdir)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert sum('"train/loss"' in line for line in lines) == 3
  return metrics


def an_image():
  return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_a_toy_quantizer(toys, data, tmp_path):
  config = stage_i(data)
  for name in ("dict_size", "codeword_dim", "dict_momentum", "dict_learning",
               "dict_splitting", "commitment_weight"):
    del config.model[name]
  config.model.quantizer = "signs"
  config.model.num_signs = 4
  metrics = train_and_resume(config, tmp_path / "run")
  assert np.isfinite(metrics["score/loss"])
  uvim = UViM.from_checkpoint(tmp_path / "run")
  assert uvim.num_words == 16
  label = np.ones((20, 30, 2), np.int32)
  code = uvim.encode(an_image(), label)
  got = uvim.decode(an_image(), code)
  assert got.outputs["panoptic"][0].shape == (1, 20, 30, 2)
  # "No word" is not one of the 16 words.
  nothing = uvim.decode(an_image(), np.full_like(code, -1))
  assert nothing.outputs["panoptic"][0].shape == (1, 20, 30, 2)


def stage_ii(data, oracle_path):
  """Two steps on the codes of an oracle of noise; the config is unlocked."""
  # Nothing has to be trained for it.
  rng = np.random.default_rng(0)
  wanted = VqvaeFamily(resolve(stage_i(data))).wanted_arrays()
  files.save_npz(oracle_path, jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(x.dtype), wanted))
  config = lm_rooms_panoptic.get_config("tiny")
  config.unlock()
  config.update(data)
  config.total_steps = config.log_eval_steps = config.checkpoint_steps = 2
  config.mesh = (("data", 1),)
  config.val_split = None
  config.evals = [("score", "mean")]
  config.score = dict(split="validation[:8]", pp=config.pp_eval, pred="loss",
                      log_steps=2)
  del config.uvim, config.oracle_code, config.zero_code, config.model_init
  config.oracle.model_init = str(oracle_path)
  return config


def test_a_toy_prior(toys, data, tmp_path):
  config = stage_ii(data, tmp_path / "oracle.npz")
  oracle = stage_i(data).model
  config.model = dict(
      style="table", seq_len=oracle.code_len, vocab_size=oracle.dict_size + 1,
      input_size=oracle.input_size)
  metrics = train_and_resume(config, tmp_path / "run")
  assert metrics["score/bits_per_codeword"] == pytest.approx(
      np.log2(oracle.dict_size), rel=0.05)
  uvim = UViM.from_checkpoint(tmp_path / "run")
  got = uvim.predict(an_image(), num_samples=2, sharpness=2.0, seed=1)
  assert got.codes.shape == (1, 2, oracle.code_len)
  assert got.logprob is None and got.settings["sharpness"] == 2.0


def test_a_toy_backbone(toys, data, tmp_path):
  config = stage_ii(data, tmp_path / "oracle.npz")
  config.model.backbone = "mean_color"
  # A backbone has parameters alone: resuming is as for the toy prior.
  metrics = loop.train(resolve(config), tmp_path / "run")
  assert np.isfinite(metrics["score/loss"])
  saved = checkpoint.load_params(tmp_path / "run")
  assert "embed_color" in saved["params"]
  uvim = UViM.from_checkpoint(tmp_path / "run")
  got = uvim.predict(an_image(), seed=1)
  assert got.outputs["panoptic"][0].shape == (1, 20, 30, 2)


def test_a_toy_task(toys, data, tmp_path):
  config = stage_i(data)
  config.task = "grey"
  config.model.inputs = config.model.outputs = {"grey": (1, 64)}
  # A task keeps nothing: resuming is as for the toy quantizer.
  loop.train(resolve(config), tmp_path / "run")
  uvim = UViM.from_checkpoint(tmp_path / "run")
  code = uvim.encode(an_image(), np.ones((20, 30, 1), np.float32))
  got = uvim.decode(an_image(), code)
  assert got.outputs["grey"][0].shape == (1, 20, 30, 1)
  got.save(tmp_path / "files")
  assert (tmp_path / "files" / "grey" / "0.npy").exists()


def test_a_toy_family(toys, data, tmp_path):
  config = stage_i(data)
  config.kind = "mean_color"
  metrics = train_and_resume(config, tmp_path / "run")
  config = scoring.config_of(str(tmp_path / "run"))
  assert config.kind == "mean_color"
  # The saved family predicts with its averaged parameters.
  family, variables = families.open_checkpoint(str(tmp_path / "run"), config)
  out = family.predict(variables, {"image": jnp.zeros((1, 4, 4, 3))})
  assert out["color"].shape == (1, 4, 4, 3)
  results = scoring.score(str(tmp_path / "run"), config)
  loss = results[0]["metrics"]["score/loss"]
  assert loss == pytest.approx(metrics["score/loss"])
