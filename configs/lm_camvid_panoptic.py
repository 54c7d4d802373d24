"""Stage II on CamVid; the partner of configs/vqvae_camvid_panoptic.py.

Arguments: `encoder=NAME`, as in stage I; `stage1_encoder=NAME`, that of stage
I where it is another.
"""

import ml_collections as mlc

from configs import common, small
from configs import vqvae_camvid_panoptic as stage_i


def get_config(arg=None):
  args = common.parse_arg(arg, encoder=stage_i.ENCODER, stage1_encoder="")
  stage1_encoder = args.stage1_encoder or args.encoder
  config = mlc.ConfigDict()
  pp = _pp_strings(args.encoder, stage1_encoder)
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
  small.set_oracle(config, stage_i.get_config(f"encoder={stage1_encoder}"))
  small.see_with_encoder(config, args.encoder, stage_i.ENCODER_SIZE)
  small.set_optimizer(config, lr=1e-3, warmup_steps=200)
  small.add_stage_ii_evals(config, stage_i.EVALUATOR, pp, **stage_i.SCORE)
  return config


def _pp_strings(encoder, stage1_encoder):
  """Preprocessing, with an image of its own for stage I where it needs one."""
  size = stage_i.image_size(encoder)
  stage1_size = stage_i.image_size(stage1_encoder)
  if stage1_size == size:
    return stage_i.pp_strings(size)
  return stage_i.pp_strings(size, ctx_size=stage1_size)
