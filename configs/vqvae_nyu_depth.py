"""Stage I on NYU Depth V2 (paper, section 3.3).

Like configs/vqvae_coco_panoptic.py, except for what stands here.

Arguments: `singlehost` (one host), `scenes` (holds whole scenes out, as the
paper does to choose its settings; needs the data set that
`tools.prepare_data nyu` makes), `runlocal` (a small model that overfits the
few images of `split`, on a CPU), and a quantizer in place of `vq`: `fsq`,
`lfq`, `vq_gradient`, `residual`, `gumbel` or, without words, `givt`; see
configs/quantizers.py.
"""

from configs import common, quantizers, vqvae_coco_panoptic

CLASSES = {"depth": 256}  # Bins of the depth range.
TASK_OPTIONS = dict(min_depth=0.001, max_depth=10.0)  # Meters.
SCENES = "nyu_scenes"  # Splits: train, holdout (14 scenes), validation.
# 16 × 16 patches, one for each word of the code.
LOCAL = common.Local(evaluator="nyu_depth", batch_size=2, total_steps=600,
                     res=192, patch=12)


def pp_strings(res):
  """Preprocessing at a resolution."""
  # "nearest" mixes no depths across an edge, and none with a hole.
  finish = (f'resize({res})|resize({res}, key="labels", method="nearest")|'
            'value_range(-1, 1)|keep("image","labels")')
  # Only evaluation cuts the frame to the part that is scored.
  load = "decode|nyu_depth|"
  augment = common.FLIP + common.CROP
  return common.Preprocessing(
      train=load + augment + finish, eval=load + "nyu_eval_crop|" + finish)


def get_config(arg=None):
  args = common.parse_arg(arg, singlehost=False, scenes=False, runlocal=False,
                          split="validation", **quantizers.ARGUMENTS)
  config = vqvae_coco_panoptic.get_config()
  config.task = "depth"
  # The bins of the labels divide this range.
  config.task_options = TASK_OPTIONS
  set_data(config, args.scenes)
  config.num_epochs = 200
  pp = pp_strings(vqvae_coco_panoptic.RES)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  common.set_labels(config.model, CLASSES)
  config.lr = 1e-3
  config.wd = 1e-5
  if args.givt:
    vqvae_coco_panoptic.set_givt_recipe(
        config, num_epochs=200, warmup_steps=929)
  set_evals(config, pp.eval)

  if args.singlehost:
    common.single_host(config, num_epochs=50)
  if args.runlocal:
    common.run_local_stage_i(config, args.split, LOCAL, pp_strings(LOCAL.res))
  quantizers.use(config.model, args)
  return config


def set_data(config, scenes):
  """The data set and its splits; `scenes` holds 14 whole scenes out."""
  config.dataset = SCENES if scenes else "nyu_depth_v2"
  config.train_split = "train"
  config.val_split = "holdout" if scenes else "validation"


def set_evals(config, pp):
  """RMSE on what `config.val_split` names, in place of panoptic's evals."""
  common.drop_evals(config)
  config.evals = [("nyu_depth", "nyu_depth")]
  config.nyu_depth = dict(
      pp=pp, log_steps=2000, prefix="nyu_depth/", split=config.val_split)
