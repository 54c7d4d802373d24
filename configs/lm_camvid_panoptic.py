"""Stage II on CamVid; the partner of configs/vqvae_camvid_panoptic.py.

Arguments: `encoder=NAME`, as in stage I.
"""

import ml_collections as mlc

from configs import common
from configs import vqvae_camvid_panoptic as stage_i


def get_config(arg=None):
  args = stage_i.parse(arg)
  stage_i_config = stage_i.get_config(arg)
  config = mlc.ConfigDict()
  pp = stage_i.pp_strings(stage_i.image_size(args))
  common.set_data(config, stage_i.DATASET, pp)
  config.log_training_steps = 100
  config.batch_size = 16
  config.total_steps = 2000
  config.log_eval_steps = 500
  config.checkpoint_steps = 500
  common.set_codes(config)
  config.codes_per_image = stage_i_config.codes_per_image
  set_oracle(config, stage_i_config)

  config.model_name = "lm"
  config.model = dict(
      num_layers=2, num_heads=6, mlp_dim=576, emb_dim=192,
      patches=dict(size=(stage_i.PATCH, stage_i.PATCH)), posemb_type="learn",
      input_size=stage_i.LABEL_SIZE, **common.stage_ii_switches())
  # So few images do not teach the decoder where each word lies.
  config.model.code_grid = stage_i.CODE_GRID
  # References, which follow an override of the oracle. The vocabulary has one
  # more: the word 0 starts a text.
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.seq_len = config.oracle.model.get_ref("code_len")
  stage_i.see_with_encoder(config, args)
  stage_i.set_optimizer(config)

  config.evals = []
  stage_i.add_eval(config, "uvim", pred="predict", pp=pp.predict,
                   temperature=0.0, seed=0)
  stage_i.add_eval(config, "uvim_sampled", pred="predict", pp=pp.predict,
                   temperature=1.0, seed=0)
  stage_i.add_eval(config, "oracle_code", pred="oracle", pp=pp.eval)
  stage_i.add_eval(config, "zero_code", pred="zero_code", pp=pp.predict)
  return config


def set_oracle(config, stage_i_config):
  """The oracle whose code is learned."""
  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i_config.task
  config.oracle.task_options = stage_i_config.task_options
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i_config.model_name
  config.oracle.model = stage_i_config.model
