"""Stage I on ImageNet colorization (paper, section 3.2).

Like configs/vqvae_coco_panoptic.py, except for what stands here.

Arguments: `singlehost` (one host), `runlocal` (a small model that overfits the
few images of `split`, on a CPU), `fid` (also scores FID-5k; needs the splits
and the Inception network that docs/data.md tells how to get), and a
quantizer in place of `vq`: `fsq`, `lfq`, `vq_gradient`, `residual`, `gumbel`
or, without words, `givt`; see configs/quantizers.py.
"""

from configs import common, quantizers, vqvae_coco_panoptic

DATASET = "imagenet2012"
CLASSES = {"color": 3}  # R, G, B per pixel.
LOCAL = common.Local(evaluator="color_val", batch_size=8, total_steps=400)
# The labels are the colors; the image keeps only the luma.
SPLIT_COLOR = ('copy("image", "labels")|rgb_to_grayscale_to_rgb|'
               'value_range(-1, 1)|value_range(-1, 1, key="labels")|')
# Evaluation sees the central square (section 3, "Data augmentations").
SQUARE = "decode|central_crop|"


def pp_strings(res):
  """Preprocessing at a resolution."""
  keep = 'keep("image","labels")'
  # This op decodes too, and only the crop of a JPEG.
  augment = f"decode_jpeg_and_inception_crop({res})|flip_lr|"
  return common.Preprocessing(
      train=augment + SPLIT_COLOR + keep,
      eval=f"{SQUARE}resize({res})|" + SPLIT_COLOR + keep)


def truth_string(res):
  """Preprocessing that makes the colors a prediction is compared with."""
  return f"{SQUARE}resize({res})|" + SPLIT_COLOR + 'keep("labels")'


def get_config(arg=None):
  args = common.parse_arg(arg, singlehost=False, runlocal=False, fid=False,
                          split="validation", **quantizers.ARGUMENTS)
  config = vqvae_coco_panoptic.get_config()
  config.task = "colorization"
  config.dataset = DATASET
  config.num_epochs = 100
  res = vqvae_coco_panoptic.RES
  pp = pp_strings(res)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  common.set_labels(config.model, CLASSES)
  set_evals(config, pp.eval, res, fid=args.fid)

  if args.singlehost:
    common.single_host(config, num_epochs=20)
  if args.runlocal:
    common.run_local_stage_i(config, args.split, LOCAL, pp_strings(LOCAL.res))
    # The truth has to have the size of the small prediction.
    config.color_val.options.pp_truth = truth_string(LOCAL.res)
  quantizers.use(config.model, args)
  return config


def set_evals(config, pp, res, fid):
  """PSNR, and FID-5k if asked for, in place of panoptic's evaluators."""
  common.drop_evals(config)
  config.evals = [
      ("color_train", "psnr"),
      ("color_holdout", "psnr"),
      ("color_val", "psnr"),
  ]
  _add_psnr(config, "color_train", pp, res, common.SCORED_TRAIN_SPLIT)
  _add_psnr(config, "color_holdout", pp, res, common.HOLDOUT_SPLIT)
  _add_psnr(config, "color_val", pp, res, "validation")
  if fid:
    config.evals = [*config.evals, ("fid", "coltran_fid")]
    # FID-5k compares two lists of 5000 files, each in a split of its own.
    config.fid = dict(
        pp=pp, split="fid_eval", log_steps=100_000,
        options=dict(features="inception.pb", reference_split="fid_reference",
                     eval_files="fid_eval.txt",
                     reference_files="fid_reference.txt"))


def _add_psnr(config, name, pp, res, split):
  """The block of one evaluator of colors."""
  config[name] = dict(pp=pp, split=split, log_steps=2500,
                      options=dict(pp_truth=truth_string(res)))
