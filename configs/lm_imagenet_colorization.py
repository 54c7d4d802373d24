"""Stage II on ImageNet colorization: panoptic's but for what is here.

Arguments: see configs/vqvae_imagenet_colorization.py.
"""

from configs import common, lm_coco_panoptic
from configs import vqvae_imagenet_colorization as stage_i

LABEL_RES = lm_coco_panoptic.LABEL_RES


def pp_strings(res, label_res):
  """Preprocessing: (train, eval, predict)."""
  labels = (f'copy("image", "labels")|resize({label_res}, key="labels", '
            'method="nearest")|value_range(-1, 1, key="labels")|')
  grey = "rgb_to_grayscale_to_rgb|" + common.two_images(res, label_res)
  square = f"{stage_i.SQUARE}resize({res})|"
  keep = 'keep("image", "image_ctx", "labels")'
  return (f"decode_jpeg_and_inception_crop({res})|flip_lr|" + labels + grey +
          keep, square + labels + grey + keep,
          square + grey + 'keep("image", "image_ctx", "image/id")')


def get_config(arg=None):
  arg = common.parse_arg(arg, singlehost=False, runlocal=False, fid=False,
                         split="validation")
  config = lm_coco_panoptic.get_config()
  config.dataset = stage_i.DATASET
  config.num_epochs = 50
  config.pp_train, config.pp_eval, pp_predict = pp_strings(
      config.model.input_size[0], LABEL_RES)
  config.oracle.task = "colorization"
  stage_i.set_labels(config.oracle.model)
  stage_i.add_evals(config, pp_predict, LABEL_RES, arg["fid"])

  if arg["singlehost"]:
    config.batch_size = 32
    config.num_epochs = 20
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def _runlocal(config, split):
  """The second half of `vqvae_imagenet_colorization.py:runlocal`."""
  res, patch = 128, 8
  common.overfit(config, split, evaluator="color_val", batch_size=8,
                 total_steps=200)
  _, config.pp_eval, config.color_val.pp = pp_strings(res, res)
  config.pp_train = config.pp_eval
  config.color_val.options.pp_truth = stage_i.truth_string(res)
  config.oracle.model.update(common.small_stage_i(res, patch))
  stage_i.set_labels(config.oracle.model)
  config.model.update(common.small_stage_ii(res))
  config.model_init = None
  config.lr_mults = []
