"""Stage II: a language model learns the oracle's guiding code from the image.

  python -m trainers.lm --config configs/lm_….py \
      --config.oracle.model_init=STAGE_I_WORKDIR --workdir W

The oracle is frozen: it is passed to the step as data. It sees the augmented
labels in evaluation mode, and the language model's targets are its code + 1.
"""

import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np

from trainers import main
from trainers.step import Aux, Stage
from trainers.vqvae import VqvaeStage, check_size, draw
from uvim import tree
from uvim.codes.vq import Codebook, code_histogram
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.models import make_model
from uvim.nn import losses
from uvim.priors import lm
from uvim.priors import sampling as decode
from uvim.registry import ConfigError
from uvim.store import code_cache
from uvim.store import start_from as model_init


class LmStage(Stage):
  """Stage II as the train loop sees it."""

  def __init__(self, config: TrainConfig):
    """Checks the sizes, builds the model and loads the oracle.

    Raises:
      ConfigError: unknown model or task, sizes that do not fit, a missing or
        unfit oracle checkpoint.
    """
    if config.oracle is None:
      raise ConfigError("config.oracle is missing; stage II needs a stage I "
                        "model.")
    self.config = config
    self.model = make_model(config.model_name, config.model, "config.model")
    self.oracle = VqvaeStage(_oracle_config(config))
    self.task = self.oracle.task
    self.dict_size = self.oracle.dict_size
    self._check_fit()
    self.frozen = load_oracle(self.oracle, config.oracle.model_init)
    if config.code_cache:
      self.codes = code_cache.open_codes(
          config.code_cache, config, self.frozen)
    params, _ = jax.eval_shape(self.init, jax.random.key(0))
    size, patch = self.model.input_size, self.model.patches["size"]
    self.initial = model_init.load(
        config.model_init, {"params": params},
        grid=(size[0] // patch[0], size[1] // patch[1]))
    self.predict_fns = {
        "predict": self.predict, "loss": self.eval_loss,
        "oracle": self._of_oracle(self.oracle.predict),
        "zero_code": self._of_oracle(self.oracle.predict_zero_code)}

  def _check_fit(self):
    """The language model must speak the oracle's code."""
    if not self.oracle.model.oracle_depth:
      raise ConfigError("config.oracle.model.oracle_depth = 0: without an "
                        "oracle there is no code to learn.")
    want = {"vocab_size": self.oracle.model.dict_size + 1,
            "seq_len": self.oracle.model.code_len}
    for name, value in want.items():
      if getattr(self.model, name) != value:
        raise ConfigError(
            f"config.model.{name} = {getattr(self.model, name)}, but the "
            f"oracle's code needs {value} (dict_size + 1, code_len).")

  def _of_oracle(self, fn):
    """A prediction function of stage I, on stage II's variables."""
    def predict(variables, batch, **options):
      return fn(variables["frozen"], batch, **options)
    # Its options are stage I's: shown to whoever checks a config's pred_kw.
    predict.__signature__ = inspect.signature(fn)
    return predict

  def init(self, rng):
    return lm.init_params(self.model, rng), None

  def check_batch(self, batch):
    if "code" not in batch:
      self.oracle.check_batch(batch)
    if "image" not in batch:
      raise ConfigError("config.pp_train must keep 'image'.")
    check_size(batch["image"], self.model.input_size, "image")

  def targets(self, frozen, batch):
    """LM targets, int32 [B, L] in 1..Q; 0 is the start token."""
    if "code" in batch:  # Of a code cache: the oracle was asked before.
      return batch["code"] + 1
    return self.oracle.encode(frozen, batch) + 1

  def loss(self, params, codebook, frozen, batch, rngs_B):
    del codebook, rngs_B
    text_BL = jax.lax.stop_gradient(self.targets(frozen, batch))
    nll_BL = token_nll(self.model, params, batch["image"], text_BL)
    counts_Q = code_histogram(text_BL - 1, self.dict_size)
    return jnp.mean(nll_BL), Aux(counts_Q, None, {})

  def sample(self, variables, batch, temperature=0.0, seed=0, top_k=None,
             top_p=None):
    """One guiding code per picture; depends on (image/id, seed) only."""
    seeds_B = decode.example_seeds(batch["image/id"], seed)
    samples = decode.sample(
        self.model, variables["params"], batch["image"], seeds_B,
        temperature=temperature, top_k=top_k, top_p=top_p)
    return samples.code[:, 0]

  def predict(self, variables, batch, temperature=0.0, seed=0, top_k=None,
              top_p=None, mask=None, mask_region=None, **output_options):
    """UViM: f(image, LM(image)) (paper, section 2.2).

    With a `mask`, for what it leaves of the code: see `VqvaeStage.decode`.
    """
    code_BL = self.sample(variables, batch, temperature, seed, top_k, top_p)
    logits = self.oracle.decode(
        variables["frozen"], code_BL, batch, mask, mask_region, seed)
    return self.task.outputs(logits, **output_options)

  def eval_loss(self, variables, batch):
    """Per-example mean NLL of the oracle's code, in nats per word."""
    text_BL = self.targets(variables["frozen"], batch)
    nll_BL = token_nll(
        self.model, variables["params"], batch["image"], text_BL)
    nll_B = jnp.mean(nll_BL, axis=1)
    return {"loss": nll_B, "bits_per_codeword": nll_B / jnp.log(2.0)}

  def panel(self, variables, batch) -> dict[str, np.ndarray]:
    def predict(name, batch, **options):
      options = self.scored(name) | options
      return self.jitted(name, **options)(variables, batch)

    # As the evaluators' batches are: who does not need labels gets none.
    image = {k: v for k, v in batch.items() if k != "labels"}
    outputs = {
        "oracle's code": predict("oracle", batch),
        "no code": predict("zero_code", image),
        "LM, T = 0": predict("predict", image, temperature=0.0, seed=0)}
    for seed in (1, 2):
      outputs[f"LM, T = 1, seed {seed}"] = predict(
          "predict", image, temperature=1.0, seed=seed)
    return draw(self.task, batch, outputs)


# Numbers in the encoder's tokens of a batch from which on a CPU takes it in
# halves.
_SPLIT = 2**18


def token_nll(model: lm.LM, params, image_BHWC, text_BL):
  """Negative log-likelihood of each word in nats, f32 [B, L]."""
  rows = image_BHWC, text_BL
  if not _in_halves(model, len(text_BL)):
    return _token_nll(model, params, *rows)
  # Not by slices: backwards each of those is padded to all of the batch.
  halves = zip(*(jnp.split(x, 2) for x in rows), strict=True)
  return jnp.concatenate([_token_nll(model, params, *x) for x in halves])


def _in_halves(model: lm.LM, batch_size: int) -> bool:
  """Whether a second core would idle: then half of the batch is for it.

  On a CPU products of many small matrices, norms and copies run on one core
  while the other waits for them. Two halves that depend on nothing of each
  other but the parameters run side by side. Not where devices share the batch:
  they would have to exchange it.
  """
  tokens = math.prod(model.input_size) // math.prod(model.patches["size"])
  return (jax.default_backend() == "cpu" and batch_size % 2 == 0
          and batch_size * tokens * model.emb_dim >= _SPLIT
          and sharding.num_data_devices() == 1)


def _token_nll(model, params, image_BHWC, text_BL):
  logits_BLV = model.apply({"params": params}, image_BHWC, text_BL)
  return losses.softmax_cross_entropy(
      logits_BLV[..., None], text_BL[..., None])[..., 0]


def _oracle_config(config: TrainConfig) -> TrainConfig:
  """The stage I fields of a stage II config."""
  return dataclasses.replace(
      config, task=config.oracle.task,
      task_options=config.oracle.task_options,
      model_name=config.oracle.model_name, model=config.oracle.model,
      model_init=None, oracle=None)


def load_oracle(stage: VqvaeStage, path) -> dict:
  """{"params", "codebook"} of a stage I checkpoint, checked against `stage`.

  Raises:
    ConfigError: nothing at `path`, or arrays of other names or shapes.
  """
  loaded = tree.unflatten(model_init.load_all(
      path, stage.wanted_arrays(), "config.oracle.model_init"))
  return {"params": loaded["params"], "codebook": Codebook(**loaded["state"])}


if __name__ == "__main__":
  main.run(LmStage, "Stage II: python -m trainers.lm "
           "--config configs/lm_….py --workdir DIR")
