"""Stage II on NYU Depth V2.

Like configs/lm_coco_panoptic.py, except for what stands here.

Arguments: `singlehost`, `scenes`, `runlocal`, `split`, and the quantizer of
stage I: `fsq`, `lfq`, `vq_gradient`, `residual`, `gumbel` or `givt`; see
configs/vqvae_nyu_depth.py.
"""

from configs import common, lm_coco_panoptic, quantizers
from configs import vqvae_nyu_depth as stage_i

LABEL_RES = lm_coco_panoptic.LABEL_RES


def pp_strings(res, label_res):
  """Preprocessing."""
  images = common.two_images(res, label_res)
  # The depth keeps the size of the label, whatever `res` is.
  finish = (images + f'resize({label_res}, key="labels", method="nearest")|'
            'keep("image", "image_ctx", "labels")')
  load = "decode|nyu_depth|"
  augment = common.FLIP + common.CROP
  # Training sees whole frames. Evaluation sees the part that is scored.
  crop = "nyu_eval_crop|"
  return common.Preprocessing(
      train=load + augment + finish, eval=load + crop + finish,
      predict=load + crop + images + 'keep("image", "image_ctx")')


def get_config(arg=None):
  args = common.parse_arg(arg, singlehost=False, scenes=False, runlocal=False,
                          split="validation", **quantizers.ARGUMENTS)
  config = lm_coco_panoptic.get_config()
  stage_i.set_data(config, args.scenes)
  config.num_epochs = 50
  pp = pp_strings(config.model.input_size[0], LABEL_RES)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.oracle.task = "depth"
  config.oracle.task_options = stage_i.TASK_OPTIONS
  # The oracle reads bins of depth instead of panoptic ids; its sizes stay.
  common.set_labels(config.oracle.model, stage_i.CLASSES)
  stage_i.set_evals(config, pp.predict)

  if args.singlehost:
    common.single_host(config, num_epochs=20)
  if args.runlocal:
    local = stage_i.LOCAL
    common.run_local_stage_ii(
        config, args.split, local, pp_strings(local.res, local.res))
  quantizers.use(config.oracle.model, args)
  quantizers.set_words(config)
  return config
