"""Stage II on COCO panoptic: Appendix D, Listing 2, to the letter.

Arguments: `singlehost`, `runlocal` (see configs/vqvae_coco_panoptic.py) and
`res` (side of the language model's picture; the paper's best model has 1280).
"""

import ml_collections as mlc

from configs import common, vqvae_coco_panoptic

LM_MODELS = {
    "base": dict(num_layers=12, num_heads=12, mlp_dim=3072, emb_dim=768),
    "large": dict(num_layers=24, num_heads=16, mlp_dim=4096, emb_dim=1024),
}
STAGE_I_MODELS = {
    "base": dict(oracle_depth=6, base_model_depth=12, num_heads=12,
                 mlp_dim=3072, width=768),
}
LABEL_RES = 512
PATCH_SIZE = LABEL_PATCH_SIZE = 16


def pp_strings(res, label_res):
  """The listing's preprocessing: (train, eval, predict)."""
  images = (f'resize({label_res}, inkey="image", outkey="image_ctx")|'
            f'resize({res})|')
  values = 'value_range(-1, 1, key="image_ctx")|value_range(-1, 1)|'
  finish = (
      images + f'resize({label_res}, key="labels", method="nearest")|' +
      values + 'make_canonical|keep("image", "image_ctx", "labels")')
  predict = images + values + 'keep("image", "image_ctx", "image/id")'
  train = common.LOAD + common.FLIP + common.CROP + finish
  return train, common.LOAD + finish, predict


def get_config(arg=None):
  arg = common.parse_arg(arg, singlehost=False, runlocal=False, res=512,
                         split="validation")
  config = mlc.ConfigDict()
  config.pp_modules = ["ops_general", "ops_image", "proj.uvim.pp_ops"]
  config.pp_train, config.pp_eval, pp_predict = pp_strings(
      arg["res"], LABEL_RES)

  config.dataset = "coco/2017_panoptic"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  common.set_devices(config, sharding="fsdp(data)")
  common.set_codes(config)
  config.train_split = "train[4096:]"
  config.val_split = "train[:4096]"
  config.shuffle_buffer_size = 50_000
  config.batch_size = 512
  config.num_epochs = 200

  config.log_training_steps = 50
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000
  config.keep_checkpoint_steps = 5000

  config.optax_name = "scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.lr = 0.001
  config.wd = 0.000001
  config.lr_mults = [
      ("pos_embedding_encoder.*", 0.1),
      ("EmbedPatches.*", 0.1),
      ("encoder.*", 0.1),
      ("decoder.*", 1.0),
  ]
  config.schedule = dict(decay_type="cosine", warmup_steps=4_000)

  config.oracle = mlc.ConfigDict()
  config.oracle.task = "panoptic_segmentation"
  config.oracle.model_init = "oracle.npz"
  config.oracle.model_name = "proj.uvim.vit"
  config.oracle.model = STAGE_I_MODELS["base"]
  config.oracle.model.input_size = (LABEL_RES, LABEL_RES)
  config.oracle.model.patch_size = (LABEL_PATCH_SIZE, LABEL_PATCH_SIZE)
  config.oracle.model.code_len = 256
  config.oracle.model.dict_size = 4096
  config.oracle.model.codeword_dim = 768
  config.oracle.model.with_encoder_ctx = True
  config.oracle.model.with_decoder_ctx = True
  config.oracle.model.update(common.stage_i_switches())
  vqvae_coco_panoptic.set_labels(config.oracle.model)

  config.model_name = "proj.uvim.lm"
  config.model_init = {"encoder": "howto-i21k-L/16"}
  config.model = LM_MODELS["large"]
  config.model.patches = dict(size=(PATCH_SIZE, PATCH_SIZE))
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.posemb_type = "learn"
  config.model.input_size = (arg["res"], arg["res"])
  config.model.seq_len = config.oracle.model.get_ref("code_len")
  config.model.update(common.stage_ii_switches())

  common.add_panoptic_evals(config, pp_predict)

  if arg["singlehost"]:
    config.batch_size = 32
    config.num_epochs = 50
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def _runlocal(config, split):
  """The second half of `vqvae_coco_panoptic.py:runlocal`."""
  res, patch = 128, 8
  common.overfit(config, split, evaluator="panoptic_val", batch_size=5,
                 total_steps=300)
  _, config.pp_eval, config.panoptic_val.pp = pp_strings(res, res)
  config.pp_train = config.pp_eval
  config.oracle.model.update(common.small_stage_i(res, patch))
  vqvae_coco_panoptic.set_labels(config.oracle.model)
  config.model.update(common.small_stage_ii(res))
  config.model_init = None
  config.lr_mults = []
