"""Stage I on NYU Depth V2 (paper, section 3.3): panoptic's but for this.

Arguments: `singlehost` (one host), `scenes` (hold whole scenes out, as the
paper does to choose its settings; needs the data set that
`tools.prepare_data nyu` makes), `runlocal` (a small model that overfits the
few images of `split`, on a CPU).
"""

import ml_collections as mlc

from configs import common, vqvae_coco_panoptic

BINS = 256
TASK_OPTIONS = dict(min_depth=0.001, max_depth=10.0)  # Metres.
SCENES = "nyu_scenes"  # Splits: train, holdout (14 scenes), validation.


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval)."""
  finish = (f'resize({res})|resize({res}, key="labels", method="nearest")|'
            'value_range(-1, 1)|keep("image","labels")')
  return ("decode|nyu_depth|" + common.FLIP + common.CROP + finish,
          "decode|nyu_depth|nyu_eval_crop|" + finish)


def get_config(arg=None):
  arg = common.parse_arg(arg, singlehost=False, scenes=False, runlocal=False,
                         split="validation")
  config = vqvae_coco_panoptic.get_config()
  config.task = "depth"
  config.task_options = TASK_OPTIONS
  set_data(config, arg["scenes"])
  config.num_epochs = 200
  config.pp_train, config.pp_eval = pp_strings(vqvae_coco_panoptic.RES)
  set_labels(config.model)
  config.lr = 1e-3
  config.wd = 1e-5
  add_evals(config, config.pp_eval)

  if arg["singlehost"]:
    config.batch_size = 128
    config.num_epochs = 50
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def set_data(config, scenes):
  """The data set and its splits; `scenes` holds 14 whole scenes out."""
  config.dataset = SCENES if scenes else "nyu_depth_v2"
  config.train_split = "train"
  config.val_split = "holdout" if scenes else "validation"


def set_labels(model):
  """What the oracle reads and the base model writes: a bin per pixel."""
  height, width = model.patch_size
  model.inputs = mlc.ConfigDict({"depth": (BINS, height * width)})
  model.outputs = model.inputs


def add_evals(config, pp):
  """RMSE on what `config.val_split` names, in place of panoptic's evals."""
  common.drop_evals(config)
  config.evals = [("nyu_depth", "nyu_depth")]
  config.nyu_depth = dict(
      pp=pp, log_steps=2000, prefix="nyu_depth/", split=config.val_split)


def _runlocal(config, split):
  """A model small enough for two cores that learns a few pictures by heart."""
  res, patch = 192, 12
  common.overfit(config, split, evaluator="nyu_depth", batch_size=2,
                 total_steps=600)
  config.pp_train = config.pp_eval = config.nyu_depth.pp = pp_strings(res)[1]
  config.model.update(common.small_stage_i(res, patch))
  set_labels(config.model)
