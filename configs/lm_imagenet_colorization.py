"""Stage II on ImageNet colorization.

Like configs/lm_coco_panoptic.py, except for what stands here.

Arguments: `singlehost`, `runlocal`, `split`, `fid`, and the quantizer of
stage I: `fsq`, `lfq`, `vq_gradient`, `residual`, `gumbel` or `givt`; see
configs/vqvae_imagenet_colorization.py.
"""

from configs import common, lm_coco_panoptic, quantizers
from configs import vqvae_imagenet_colorization as stage_i

LABEL_RES = lm_coco_panoptic.LABEL_RES


def pp_strings(res, label_res):
  """Preprocessing."""
  # The colors are copied before the next op makes the image gray.
  labels = (f'copy("image", "labels")|resize({label_res}, key="labels", '
            'method="nearest")|value_range(-1, 1, key="labels")|')
  grey = "rgb_to_grayscale_to_rgb|" + common.two_images(res, label_res)
  keep = 'keep("image", "image_ctx", "labels")'
  augment = f"decode_jpeg_and_inception_crop({res})|flip_lr|"
  # Training crops at random; evaluation sees the central square.
  square = f"{stage_i.SQUARE}resize({res})|"
  return common.Preprocessing(
      train=augment + labels + grey + keep,
      eval=square + labels + grey + keep,
      predict=square + grey + 'keep("image", "image_ctx", "image/id")')


def get_config(arg=None):
  args = common.parse_arg(arg, singlehost=False, runlocal=False, fid=False,
                          split="validation", **quantizers.ARGUMENTS)
  config = lm_coco_panoptic.get_config()
  config.dataset = stage_i.DATASET
  config.num_epochs = 50
  pp = pp_strings(config.model.input_size[0], LABEL_RES)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.oracle.task = "colorization"
  # The oracle reads colors instead of panoptic ids; its sizes stay.
  common.set_labels(config.oracle.model, stage_i.CLASSES)
  # A prediction needs no labels, so `pp.predict` makes none.
  stage_i.set_evals(config, pp.predict, LABEL_RES, fid=args.fid)

  if args.singlehost:
    common.single_host(config, num_epochs=20)
  if args.runlocal:
    local = stage_i.LOCAL
    common.run_local_stage_ii(
        config, args.split, local, pp_strings(local.res, local.res))
    config.color_val.options.pp_truth = stage_i.truth_string(local.res)
  quantizers.use(config.oracle.model, args)
  quantizers.set_words(config)
  return config
