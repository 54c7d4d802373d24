"""Pre-training: DINO learns an image encoder from images alone.

  python -m trainers.dino --config configs/dino_….py --workdir W

B batch · N patches · D width · K numbers that the head makes of a crop
H W image pixels

The student's parameters are trained; the teacher is their running average,
`extra["ema"]`, which predictions and later runs take. A later run starts from
it by `config.model_init = {"encoder": W}`.
"""

import jax.numpy as jnp
import numpy as np

from trainers.families.base import Report
from trainers.families.drawing import render_image
from trainers.families.images import ImagesFamily
from uvim.config import TrainConfig
from uvim.learn import sharding
from uvim.models import dino
from uvim.models.dino import SelfDistillation
from uvim.nn.grid import grid_of
from uvim.registry import ConfigError


class DinoFamily(ImagesFamily):
  """DINO as the train loop sees it.

  Attributes:
    model: student and teacher, and their loss.
  """

  kind = "dino"
  model: SelfDistillation

  def __init__(self, config: TrainConfig):
    """As `ImagesFamily`."""
    super().__init__(config)
    self.predictors = {"predict": self.predict, "loss": self.eval_loss}

  def init(self, rng):
    params = self.model.init(rng)
    num_outputs = self.model.network.out_dim
    state = {
        "center": jnp.zeros((num_outputs,)),
        # Updates made so far: the teacher's momentum depends on them.
        "updates": jnp.zeros((), jnp.int32),
    }
    return params, {"ema": params, "state": state}

  def check_batch(self, batch):
    super().check_batch(batch)
    height, width = batch["image"].shape[1:3]
    patch_height, patch_width = self.model.network.patch_size
    # Crops are cut on the device. Only what the panels show is cut in patches.
    if height % patch_height or width % patch_width:
      raise ConfigError(
          f"config.pp_train makes 'image' of {(height, width)} pixels; that "
          "must be a multiple of config.model.patch_size "
          f"{(patch_height, patch_width)} in both directions.")

  def loss(self, params, extra, frozen, batch, rngs_B, step):
    del frozen
    loss_B, teacher_VBK = self.model.loss(
        params, extra["ema"], extra["state"]["center"], batch["image"], rngs_B,
        step)
    num_crops, batch_size, _ = teacher_VBK.shape
    stats = {
        "sum_K": jnp.sum(teacher_VBK, axis=(0, 1)),
        "count": jnp.asarray(num_crops * batch_size, jnp.float32),
    }
    return jnp.mean(loss_B), Report(logs={}, stats=stats)

  def after_step(self, params, extra, stats, rng, starts_epoch):
    del rng, starts_epoch
    state = extra["state"]
    mean_K = stats["sum_K"] / stats["count"]
    center_K = dino.move_center(
        state["center"], mean_K, self.model.network.center_momentum)
    teacher = self.model.teach(extra["ema"], params, state["updates"])
    new_state = {"center": center_K, "updates": state["updates"] + 1}
    # Where the teacher says the same of all crops, its numbers are the center.
    logs = {"center_deviation": jnp.std(center_K)}
    return {"ema": teacher, "state": new_state}, logs

  # ── Predictions ─────────────────────────────────────────────────────────

  def eval_loss(self, variables, batch, seed=0):
    """The loss of each example, with the teacher in the student's place too.

    Its crops follow from (image/id, seed).
    """
    rngs_B = self.example_rngs(batch, seed)
    teacher = variables["params"]
    state = variables["state"]
    loss_B, _ = self.model.loss(
        teacher, teacher, state["center"], batch["image"], rngs_B,
        state["updates"])
    return {"loss": loss_B}

  def predict(self, variables, batch):
    """What the encoder says of the patches of an image, [B, N, D]."""
    features_BND = self.model.features(variables["params"], batch["image"])
    return {"features": features_BND.astype(jnp.float32)}

  def panel(self, predict, variables, batch) -> dict[str, np.ndarray]:
    program = predict("predict", **predict.scored("predict"))
    outputs = sharding.gather_to_host(program(variables, batch))
    image = sharding.gather_to_host(batch["image"])
    patch_size = self.model.network.patch_size
    return {
        "image": render_image(image),
        "features": draw_features(outputs["features"], image.shape, patch_size),
    }


def draw_features(
    features_BND: np.ndarray,
    image_shape: tuple[int, ...],
    patch_size: tuple[int, int],
) -> np.ndarray:
  """The three directions in which features differ most, as colors.

  Args:
    features_BND: of the patches of a few images.
    image_shape: (B, H, W, 3).
    patch_size: height and width of a patch.

  Returns:
    uint8 [B, H, W, 3]. Patches of like colors have like features.
  """
  batch, height, width, _ = image_shape
  patch_height, patch_width = patch_size
  num_rows, num_columns = grid_of((height, width), patch_size)
  features_TD = features_BND.reshape(-1, features_BND.shape[-1])
  centered_TD = features_TD - features_TD.mean(axis=0)
  _, _, directions_DD = np.linalg.svd(centered_TD, full_matrices=False)
  colors_T3 = centered_TD @ directions_DD[:3].T
  # Nine tenths of the values of each color lie between black and full.
  low_3, high_3 = np.quantile(colors_T3, [0.05, 0.95], axis=0)
  span_3 = np.maximum(high_3 - low_3, 1e-6)
  colors_T3 = np.clip((colors_T3 - low_3) / span_3, 0, 1)
  colors = np.uint8(255 * colors_T3).reshape(batch, num_rows, num_columns, 3)
  return colors.repeat(patch_height, axis=1).repeat(patch_width, axis=2)
