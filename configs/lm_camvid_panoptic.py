"""Stage II on CamVid; the partner of configs/vqvae_camvid_panoptic.py.

Arguments: `encoder=NAME`, as in stage I.
"""

import ml_collections as mlc

from configs import common, small
from configs import vqvae_camvid_panoptic as stage_i


def get_config(arg=None):
  args = stage_i.parse(arg)
  config = mlc.ConfigDict()
  pp = stage_i.pp_strings(stage_i.image_size(args))
  small.set_data(config, pp, **stage_i.DATA)
  config.batch_size = 16
  config.total_steps = 2000
  config.log_training_steps = 100
  config.log_eval_steps = 500
  config.checkpoint_steps = 500

  config.model_name = "lm"
  config.model = dict(
      num_layers=2, num_heads=6, mlp_dim=576, emb_dim=192,
      patches=dict(size=(stage_i.PATCH, stage_i.PATCH)), posemb_type="learn",
      input_size=stage_i.LABEL_SIZE, **common.stage_ii_switches())
  # So few images do not teach the decoder where each word lies.
  config.model.code_grid = stage_i.CODE_GRID
  small.set_oracle(config, stage_i.get_config(arg))
  small.see_with_encoder(config, args.encoder, stage_i.ENCODER_SIZE)
  small.set_optimizer(config, lr=1e-3, warmup_steps=200)
  small.add_stage_ii_evals(config, stage_i.EVALUATOR, pp, **stage_i.SCORE)
  return config
