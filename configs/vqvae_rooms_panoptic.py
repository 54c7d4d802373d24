"""Stage I on `rooms`: the recipe of Appendix D at a size for two cores.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common

RES = 64
PATCH_SIZE = 8
NUM_CLASSES = 12 + 1  # +1 for void.
NUM_INSTANCES = 16


def get_config(arg=None):
  arg = common.parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  config.task = "panoptic_segmentation"
  config.dataset = "rooms/tiny" if arg["tiny"] else "rooms"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train"
  config.val_split = "validation"
  config.batch_size = 32
  config.total_steps = 1600
  config.pp_train, config.pp_eval, _ = common.rooms_pp(RES)

  config.log_training_steps = 100
  config.log_eval_steps = 800
  config.checkpoint_steps = 400

  config.model_name = "vit"
  config.model = common.rooms_stage_i(
      RES, PATCH_SIZE, NUM_CLASSES, NUM_INSTANCES)

  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = 1.2e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.grad_clip_norm = 1.0

  config.evals = [("oracle_code", "coco_panoptic"),
                  ("zero_code", "coco_panoptic")]
  for name, pred in (("oracle_code", "predict"), ("zero_code", "zero_code")):
    config[name] = dict(
        pp=config.pp_eval, split="validation", pred=pred, log_steps=800,
        pred_kw=dict(min_fraction=0.001))

  if arg["tiny"]:
    common.rooms_tiny(config)
    config.model.update(oracle_depth=1, base_model_depth=1, width=32,
                        mlp_dim=32, dict_size=16)
  return config
