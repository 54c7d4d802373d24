"""Stage I on ImageNet colorization (section 3.2): panoptic's but for this.

Arguments: `singlehost` (one host), `runlocal` (a small model that overfits the
few images of `split`, on a CPU), `fid` (also scores FID-5k; needs the splits
and the Inception network that docs/data.md tells how to get).
"""

import ml_collections as mlc

from configs import common, vqvae_coco_panoptic

DATASET = "imagenet2012"
# Labels are the colours, the picture keeps only the luma.
SPLIT_COLOR = ('copy("image", "labels")|rgb_to_grayscale_to_rgb|'
               'value_range(-1, 1)|value_range(-1, 1, key="labels")|')
# Whoever is scored sees the central square (section 3, "Data augmentations").
SQUARE = "decode|central_crop|"


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval)."""
  keep = 'keep("image","labels")'
  return (f"decode_jpeg_and_inception_crop({res})|flip_lr|" + SPLIT_COLOR +
          keep, f"{SQUARE}resize({res})|" + SPLIT_COLOR + keep)


def truth_string(res):
  """Preprocessing that makes the colours a prediction is compared with."""
  return f"{SQUARE}resize({res})|" + SPLIT_COLOR + 'keep("labels")'


def get_config(arg=None):
  arg = common.parse_arg(arg, singlehost=False, runlocal=False, fid=False,
                         split="validation")
  config = vqvae_coco_panoptic.get_config()
  config.task = "colorization"
  config.dataset = DATASET
  config.num_epochs = 100
  config.pp_train, config.pp_eval = pp_strings(vqvae_coco_panoptic.RES)
  set_labels(config.model)
  add_evals(config, config.pp_eval, vqvae_coco_panoptic.RES, arg["fid"])

  if arg["singlehost"]:
    config.batch_size = 128
    config.num_epochs = 20
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def set_labels(model):
  """What the oracle reads and the base model writes: R, G, B per pixel."""
  height, width = model.patch_size
  model.inputs = mlc.ConfigDict({"color": (3, height * width)})
  model.outputs = model.inputs


def add_evals(config, pp, res, fid=False):
  """PSNR, and FID-5k if asked for, in place of panoptic's evals."""
  common.drop_evals(config)
  splits = {"color_train": "train[4096:8192]", "color_holdout": "train[:4096]",
            "color_val": "validation"}
  config.evals = [(name, "psnr") for name in splits]
  for name, split in splits.items():
    config[name] = dict(pp=pp, split=split, log_steps=2500,
                        options=dict(pp_truth=truth_string(res)))
  if fid:
    config.evals = (*config.evals, ("fid", "coltran_fid"))
    config.fid = dict(
        pp=pp, split="fid_eval", log_steps=100_000,
        options=dict(features="inception.pb", reference_split="fid_reference",
                     eval_files="fid_eval.txt",
                     reference_files="fid_reference.txt"))


def _runlocal(config, split):
  """A model small enough for two cores that learns a few pictures by heart."""
  res, patch = 128, 8
  common.overfit(config, split, evaluator="color_val", batch_size=8,
                 total_steps=400)
  config.pp_train = config.pp_eval = config.color_val.pp = pp_strings(res)[1]
  config.color_val.options.pp_truth = truth_string(res)
  config.model.update(common.small_stage_i(res, patch))
  set_labels(config.model)
