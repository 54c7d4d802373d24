"""Stage II on `rooms`; the partner of configs/vqvae_rooms_panoptic.py.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common, vqvae_rooms_panoptic


def get_config(arg=None):
  arg = common.parse_arg(arg, tiny=False)
  stage_i = vqvae_rooms_panoptic.get_config("tiny" if arg["tiny"] else None)
  res = stage_i.model.input_size[0]
  config = mlc.ConfigDict()
  config.dataset = stage_i.dataset
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train"
  config.val_split = "validation"
  config.batch_size = 32
  config.total_steps = 1900
  config.pp_train, config.pp_eval, pp_predict = common.rooms_pp(res)

  config.log_training_steps = 100
  config.log_eval_steps = 950
  config.checkpoint_steps = 475

  config.oracle = mlc.ConfigDict()
  config.oracle.task = stage_i.task
  config.oracle.model_init = "stage1"
  config.oracle.model_name = stage_i.model_name
  config.oracle.model = stage_i.model

  # `rooms` has no ImageNet-21k model to start from. The base model is a ViT
  # that knows the scenes, so the encoder starts from that.
  config.model_init = {
      "base_model": config.oracle.get_ref("model_init")}
  config.model_name = "lm"
  config.model = dict(
      num_layers=4, num_heads=4, mlp_dim=384, emb_dim=128,
      patches=dict(size=(8, 8)), posemb_type="learn", input_size=(res, res))
  config.model.vocab_size = config.oracle.model.get_ref("dict_size") + 1
  config.model.seq_len = config.oracle.model.get_ref("code_len")

  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.99)
  config.lr = 1.2e-3
  config.wd = 1e-4
  config.schedule = dict(decay_type="cosine", warmup_steps=200)
  config.grad_clip_norm = 1.0

  config.evals = [("uvim", "coco_panoptic"), ("oracle_code", "coco_panoptic"),
                  ("zero_code", "coco_panoptic")]
  preds = {"uvim": "predict", "oracle_code": "oracle",
           "zero_code": "zero_code"}
  for name, pred in preds.items():
    config[name] = dict(
        pp=config.pp_eval if name == "oracle_code" else pp_predict,
        split="validation", pred=pred, log_steps=950,
        pred_kw=dict(min_fraction=0.001))
  config.uvim.pred_kw.temperature = 0.0
  config.uvim.pred_kw.seed = 0

  if arg["tiny"]:
    common.rooms_tiny(config)
    config.model.update(num_layers=1, emb_dim=32, mlp_dim=32)
  return config
