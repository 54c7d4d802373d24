"""Stage II on NYU Depth V2: panoptic's but for what is here.

Arguments: see configs/vqvae_nyu_depth.py.
"""

from configs import common, lm_coco_panoptic, vqvae_nyu_depth

LABEL_RES = lm_coco_panoptic.LABEL_RES


def pp_strings(res, label_res):
  """Preprocessing: (train, eval, predict)."""
  images = common.two_images(res, label_res)
  finish = (images + f'resize({label_res}, key="labels", method="nearest")|'
            'keep("image", "image_ctx", "labels")')
  crop = "decode|nyu_depth|nyu_eval_crop|"
  return ("decode|nyu_depth|" + common.FLIP + common.CROP + finish,
          crop + finish, crop + images + 'keep("image", "image_ctx")')


def get_config(arg=None):
  arg = common.parse_arg(arg, singlehost=False, scenes=False, runlocal=False,
                         split="validation")
  config = lm_coco_panoptic.get_config()
  vqvae_nyu_depth.set_data(config, arg["scenes"])
  config.num_epochs = 50
  config.pp_train, config.pp_eval, pp_predict = pp_strings(
      config.model.input_size[0], LABEL_RES)
  config.oracle.task = "depth"
  config.oracle.task_options = vqvae_nyu_depth.TASK_OPTIONS
  vqvae_nyu_depth.set_labels(config.oracle.model)
  vqvae_nyu_depth.add_evals(config, pp_predict)

  if arg["singlehost"]:
    config.batch_size = 32
    config.num_epochs = 20
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def _runlocal(config, split):
  """The second half of `vqvae_nyu_depth.py:runlocal`."""
  res, patch = 192, 12
  common.overfit(config, split, evaluator="nyu_depth", batch_size=2,
                 total_steps=300)
  _, config.pp_eval, config.nyu_depth.pp = pp_strings(res, res)
  config.pp_train = config.pp_eval
  config.oracle.model.update(common.small_stage_i(res, patch))
  vqvae_nyu_depth.set_labels(config.oracle.model)
  config.model.update(common.small_stage_ii(res))
  config.model_init = None
  config.lr_mults = []
