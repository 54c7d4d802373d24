"""Stage I: restricted oracle Ω and base model f, trained end to end.

  python -m trainers.vqvae --config configs/vqvae_….py --workdir W

The loss is the task's reconstruction loss of f(x, Ω(x, y)) (paper, section
2.2) plus `commitment_weight` times the commitment loss (0 in the released
setting). The dictionary learns by EMA and LBG splitting, outside the gradient.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trainers import main
from trainers.step import Aux, Stage
from uvim.codes import vq as quantizer
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.models import make_model, vit
from uvim.priors import sampling as decode
from uvim.registry import ConfigError
from uvim.store import start_from as model_init
from uvim.tasks import make_task


class VqvaeStage(Stage):
  """Stage I as the train loop sees it."""

  def __init__(self, config: TrainConfig):
    """Checks the sizes and builds model and task; computes nothing.

    Raises:
      ConfigError: unknown model or task, sizes that do not fit.
    """
    if config.task is None:
      raise ConfigError("config.task is missing; stage I needs one, such as "
                        "'panoptic_segmentation'.")
    self.config = config
    self.model = make_model(config.model_name, config.model, "config.model")
    self.task = make_task(config.task, config.model,
                          **config.task_options)
    self.dict_size = self.model.dict_size
    self.initial = model_init.load(config.model_init, self.wanted_arrays())
    self.predict_fns = {
        "predict": self.predict, "loss": self.eval_loss,
        "zero_code": self.predict_zero_code}

  def wanted_arrays(self) -> dict:
    """Shapes of the arrays of a checkpoint, in the published layout."""
    params, codebook = jax.eval_shape(self.init, jax.random.key(0))
    return {"params": params, "state": dataclasses.asdict(codebook)}

  def init(self, rng):
    model_rng, dict_rng = jax.random.split(rng)
    params = vit.init_params(self.model, model_rng)
    return params, quantizer.init_codebook(
        dict_rng, self.model.dict_size, self.model.codeword_dim)

  def check_batch(self, batch):
    data = self.task.inputs(batch)
    if data["x"] is None or data["ctx"] is None:
      raise ConfigError("config.pp_train must keep 'image' and 'labels'; it "
                        f"leaves {', '.join(sorted(batch))}.")
    check_size(data["ctx"], self.model.input_size,
               "image_ctx" if "image_ctx" in batch else "image")

  def loss(self, params, codebook, frozen, batch, rngs_B):
    del frozen
    model, data = self.model, self.task.inputs(batch)
    if not model.oracle_depth:
      return self._loss_without_oracle(params, data)
    x_BLE = vit.encode_vectors(model, params, data["x"], data["ctx"])
    z_BLE, code_BL = quantizer.quantize(codebook, x_BLE)
    commitment = jnp.mean(quantizer.commitment_loss(x_BLE, z_BLE))
    z_BLE = quantizer.drop_code(rngs_B, z_BLE, model.code_dropout)
    loss, logs = vit.decode_loss(
        model, params, z_BLE, data["ctx"], data["x"], self.task.loss)
    counts_Q, sums_QE = quantizer.statistics(x_BLE, code_BL, model.dict_size)
    logs["code/commitment"] = commitment
    return loss + model.commitment_weight * commitment, Aux(
        counts_Q, sums_QE if model.dict_learning else None, logs)

  def learn_codes(self, codebook, aux, rng):
    if aux.counts_Q is None:
      return codebook, {}
    num_splits = jnp.zeros((), jnp.int32)
    if self.model.dict_learning:
      codebook = quantizer.update(codebook, aux.counts_Q, aux.sums_QE,
                                  momentum=self.model.dict_momentum)
      if self.model.dict_splitting:
        codebook, num_splits = quantizer.split_dead(codebook, rng)
    return codebook, {"code/splits": num_splits}

  def _loss_without_oracle(self, params, data):
    """The base model alone: no code, and nothing for a dictionary to learn."""
    loss, logs = vit.decode_loss(
        self.model, params, self._zero_vectors(data["ctx"]), data["ctx"],
        data["x"], self.task.loss)
    return loss, Aux(None, None, logs)

  def _zero_vectors(self, ctx):
    """A code of which every codeword is the zero vector."""
    model = self.model
    return jnp.zeros((ctx.shape[0], model.code_len, model.codeword_dim))

  def _code_vectors(self, variables, batch):
    """The oracle's code as vectors, undropped; zeros without an oracle."""
    if not self.model.oracle_depth:
      return self._zero_vectors(self.task.inputs(batch)["ctx"])
    return quantizer.embed_code(
        variables["codebook"], self.encode(variables, batch))

  def encode(self, variables, batch):
    """The guiding codes of the batch's labels, int32 [B, L]."""
    data = self.task.inputs(batch)
    return vit.oracle_code(self.model, variables["params"],
                           variables["codebook"], data["x"], data["ctx"])

  def decode(self, variables, code_BL, batch, mask=None, mask_region=None,
             seed=0):
    """The base model's logits for the codes and the batch's pictures.

    With a `mask`, for what it leaves of the codes (Fig 10); see
    `quantizer.mask_code`. Its random words follow from (image/id, seed).
    """
    ctx = self.task.inputs(batch)["ctx"]
    codebook, seeds_B = variables["codebook"], None
    if mask is None:
      return vit.decode_code(self.model, variables["params"], codebook,
                             code_BL, ctx)
    if mask == "random":
      seeds_B = decode.example_seeds(batch["image/id"], seed)
    z_BLE = quantizer.mask_code(codebook, code_BL, mask, region=mask_region,
                                seeds_B=seeds_B)
    return vit.decode_vectors(self.model, variables["params"], z_BLE, ctx)

  def predict(self, variables, batch, mask=None, mask_region=None, seed=0,
              **output_options):
    """Outputs of f given the oracle's code; a `mask` as in `decode`."""
    if mask is None:
      logits = vit.decode_vectors(
          self.model, variables["params"], self._code_vectors(variables, batch),
          self.task.inputs(batch)["ctx"])
    else:
      logits = self.decode(variables, self.encode(variables, batch), batch,
                           mask, mask_region, seed)
    return self.task.outputs(logits, **output_options)

  def predict_zero_code(self, variables, batch, **output_options):
    """Outputs of f when every codeword is the zero vector (Fig 10)."""
    ctx = self.task.inputs(batch)["ctx"]
    logits = vit.decode_vectors(
        self.model, variables["params"], self._zero_vectors(ctx), ctx)
    return self.task.outputs(logits, **output_options)

  def eval_loss(self, variables, batch):
    """Per-example reconstruction loss with the oracle's code, undropped."""
    data = self.task.inputs(batch)
    loss_B, logs = vit.decode_loss_of_each(
        self.model, variables["params"], self._code_vectors(variables, batch),
        data["ctx"], data["x"], self.task.loss)
    return {"loss": loss_B, **logs}

  def panel(self, variables, batch) -> dict[str, np.ndarray]:
    outputs = {
        title: self.jitted(name, **self.scored(name))(variables, batch)
        for title, name in (("oracle's code", "predict"),
                            ("no code", "zero_code"))}
    return draw(self.task, batch, outputs)


def check_size(image_BHWC, size, name: str) -> None:
  """Raises a ConfigError if pictures of config.pp_train have another size."""
  if tuple(image_BHWC.shape[1:3]) != tuple(size):
    raise ConfigError(
        f"config.pp_train makes {name!r} of {image_BHWC.shape[1:3]} pixels; "
        f"the model's input_size is {tuple(size)}. Change its resize(…).")


def draw(task, batch, outputs) -> dict[str, np.ndarray]:
  """The columns of a panel: image, truth, and every output by its title."""
  batch = sharding.gather_to_host(batch)
  # One by one: a tree of them would come back in alphabetical order.
  outputs = {k: sharding.gather_to_host(v) for k, v in outputs.items()}
  ctx = batch["image_ctx"] if "image_ctx" in batch else batch["image"]
  return {"image": render_image(ctx), "truth": task.render(task.truth(batch)),
          **{title: task.render(out) for title, out in outputs.items()}}


def render_image(image_BHWC) -> np.ndarray:
  """[−1, 1] pictures as uint8."""
  return np.uint8(np.clip(np.asarray(image_BHWC) * 127.5 + 127.5, 0, 255))


if __name__ == "__main__":
  main.run(VqvaeStage, "Stage I: python -m trainers.vqvae "
           "--config configs/vqvae_….py --workdir DIR")
