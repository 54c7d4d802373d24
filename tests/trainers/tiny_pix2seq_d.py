"""A run of Pix2Seq-D of a size that compiles in seconds, of plain noise."""

import json

import jax
import numpy as np

from tests.trainers import tiny
from trainers.families.pix2seq_d import Pix2SeqDFamily
from uvim.config import resolve
from uvim.store import checkpoint

MODEL = dict(
    input_size=(16, 16), mask_size=(16, 16), num_classes=tiny.CLASSES,
    num_ids=tiny.INSTANCES, num_bits=6, input_scale=1.0, stem="small",
    resnet_width=4, resnet_blocks=(1, 1), encoder_dim=8, encoder_depth=1,
    encoder_mlp_dim=8, encoder_heads=2, mask_patch=2, fuse_dim=8, decoder_dim=4,
    channel_multipliers=(1, 1), bottom_dim=8, bottom_depth=1, bottom_heads=2)
ROWS = [[3, "cup", True], [5, "sea", False], [8, "sky", False],
        [9, "box", True]]


def config(**changes):
  return resolve(dict(
      kind="pix2seq_d", task="panoptic_segmentation", dataset="none",
      train_split="train", batch_size=8, pp_train="", model_name="pix2seq_d",
      model=MODEL, lr=0.01, total_steps=20) | changes)


def noise(shapes, seed):
  """Parameters whose masks say something else at every place, and loudly."""
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
      lambda spec: np.float32(rng.normal(size=spec.shape) / 3), shapes)
  head = params["denoiser"]["conv_out"]
  head["bias"] = 0 * head["bias"]
  head["kernel"] = 30 * head["kernel"]
  return params


def save_run(workdir, **changes):
  """A workdir whose averaged parameters are not those of the last step."""
  of_run = config(**changes)
  family = Pix2SeqDFamily(of_run)
  shapes, _ = jax.eval_shape(family.init, jax.random.key(0))
  extra = {"ema": noise(shapes, 1), "state": {"updates": np.int32(3)}}
  state = {"params": noise(shapes, 2), "extra": extra}
  fields = of_run.to_json()
  meta = {"version": "7.8", "config": fields, "categories": ROWS}
  with checkpoint.Checkpointer(workdir) as checkpointer:
    checkpointer.save(2, state, meta)
  (workdir / "config.json").write_text(json.dumps(fields))
  return family, extra
