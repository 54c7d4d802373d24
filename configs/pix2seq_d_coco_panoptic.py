"""Pix2Seq-D on COCO panoptic: the published recipe.

Arguments: `highres` (fine-tunes the run without it: images of 1024 pixels a
side); `runlocal` (a small model that overfits the few images of `split`, on a
CPU); `tiny` (a few steps of a smaller one, for tests).

What differs from the recipe: images are stretched to a square, as in all
configs here, where the original keeps their aspect and pads them; pretraining
has random crops of the same range for its scale jitter; weight decay is for
kernels alone. How large the images of the pretraining were was not published.
"""

import ml_collections as mlc

from configs import common, vqvae_coco_panoptic

# Side of an image. That of a mask is half of it.
LOW_RES = 512
HIGH_RES = 1024
# Five photographs of COCO can still reach a PQ of 84 with masks of this side.
LOCAL_RES = 64
NUM_CLASSES = vqvae_coco_panoptic.CLASSES["semantics"]
# Void, and ids 1 to 100.
NUM_IDS = 101
# The original drops segments under 40 pixels of a photo of 640 × 480.
MIN_FRACTION = 40 / (640 * 480)
# The original enlarges an image up to three times and cuts the size that it
# needs out of it.
CROP = ('inception_box(area=(0.111, 1.0))|'
        'crop_box(key="image")|crop_box(key="labels")|')
# Strength 1, as in SimCLR.
JITTER = "color_jitter|random_gray|"


def pp_strings(res, mask_res, augment, recolor=""):
  """Preprocessing for images and masks of these sides.

  Args:
    res: side of the image.
    mask_res: side of the mask.
    augment: ops that training puts behind the decoding.
    recolor: ops that training puts behind the resize.
  """
  resize = f'resize({res}, antialias=True)|'
  scale = 'value_range(-1, 1)|'
  # The model draws the ids, so their order here says nothing.
  labels = (f'resize({mask_res}, key="labels", method="nearest")|'
            'keep("image","labels")')
  return common.Preprocessing(
      train=common.LOAD + augment + resize + recolor + scale + labels,
      eval=common.LOAD + resize + scale + labels,
      predict=f'{resize}{scale}keep("image")')


def get_config(arg=None):
  args = common.parse_arg(
      arg, highres=False, runlocal=False, tiny=False, split="validation")
  config = mlc.ConfigDict()
  config.task = "panoptic_segmentation"
  config.dataset = "coco/2017_panoptic"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  common.set_devices(config, sharding="fsdp(data)")
  common.set_features(config)
  # The examples that UViM's configs hold out.
  config.train_split = common.TRAIN_SPLIT
  config.val_split = common.HOLDOUT_SPLIT
  config.log_training_steps = 50
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000
  config.keep_checkpoint_steps = 20_000

  res = HIGH_RES if args.highres else LOW_RES
  config.model_name = "pix2seq_d"
  # The sizes of the network are those of the paper by themselves.
  config.model = dict(
      input_size=(res, res), mask_size=(res // 2, res // 2),
      num_classes=NUM_CLASSES, num_ids=NUM_IDS, input_scale=0.1,
      coding="binary", output="softmax", schedule="cosine", weight_power=0.2,
      random_ids=True, ema_decay=0.999, encoder_dropout=0.1,
      **common.speed_switches())
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.999)
  config.grad_clip_norm = 1.0
  augment = common.FLIP
  recolor = ""
  if args.highres:
    _fine_tune(config)
  else:
    augment = CROP + augment
    recolor = JITTER
    _pretrain(config)
  pp = pp_strings(res, res // 2, augment, recolor)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  _add_evals(config, pp)
  if args.runlocal or args.tiny:
    _overfit(config, args.split)
  if args.tiny:
    _shrink(config)
  return config


def _pretrain(config):
  """800 epochs, of which 5 warm up."""
  config.batch_size = 512
  config.num_epochs = 800
  config.schedule = dict(decay_type="linear", end=0.1, warmup_steps=1115)
  _set_step_size(config, 1e-4)


def _fine_tune(config):
  """15 epochs on large images, from what `_pretrain` has learned."""
  config.model_init = "low_res"
  config.batch_size = 16
  config.num_epochs = 15
  config.schedule = dict(decay_type="linear", end=0.1, warmup_steps=0)
  _set_step_size(config, 1e-5)


def _set_step_size(config, lr):
  config.lr = lr
  # AdamW decays by 0.05 times the step size, `wd` by itself.
  config.wd = 0.05 * lr


def _add_evals(config, pp):
  """UViM's evaluators, with 20 steps of sampling; and what a mask costs."""
  common.add_panoptic_evals(config, pp.predict)
  for name, _ in config.evals:
    config[name].pred_kw = dict(
        min_fraction=MIN_FRACTION, num_steps=20, time_difference=1.0, seed=0)
  config.evals = [*config.evals, ("bound", "mean")]
  config.bound = dict(
      split=common.HOLDOUT_SPLIT, log_steps=10_000, pp=pp.eval, pred="bound",
      pred_kw=dict(num_levels=8, seed=0))


def _overfit(config, split):
  """`runlocal`: learns a handful of images by heart, and is scored on them."""
  evaluator = "panoptic_val"
  pp = pp_strings(LOCAL_RES, LOCAL_RES, augment="")
  del config.num_epochs
  config.model_init = None
  config.total_steps = 1000
  config.batch_size = 5
  config.train_split = split
  config.val_split = split
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  common.drop_evals(config, keep=evaluator)
  config[evaluator].update(split=split, pp=pp.predict, log_steps=500)
  config[evaluator].pred_kw.min_fraction = 0.0
  config.log_training_steps = 10
  config.log_eval_steps = 500
  config.checkpoint_steps = 100
  config.optax = dict(b2=0.99)
  config.lr = 1.5e-3
  config.wd = 0.0
  config.schedule = dict(decay_type="cosine", warmup_steps=50)
  config.model.update(
      input_size=(LOCAL_RES, LOCAL_RES), mask_size=(LOCAL_RES, LOCAL_RES),
      # With ids that stay as they are, an image has one right answer, which a
      # short run can learn. A small mask wants a larger scale.
      random_ids=False, input_scale=1.0, ema_decay=0.99, encoder_dropout=0.0,
      # 32 × 32, 16 × 16 and 8 × 8 places in both networks.
      stem="small", resnet_width=16, resnet_blocks=(1, 1, 1),
      encoder_dim=128, encoder_depth=2, encoder_mlp_dim=256, encoder_heads=4,
      mask_patch=2, fuse_dim=32, decoder_dim=32, channel_multipliers=(1, 2, 4),
      bottom_dim=128, bottom_depth=2, bottom_heads=4)


def _shrink(config):
  """`tiny`: makes the run of `runlocal` last a few seconds."""
  config.total_steps = 4
  config.log_training_steps = 1
  config.log_eval_steps = 2
  config.checkpoint_steps = 2
  config.schedule.warmup_steps = 1
  config.panoptic_val.log_steps = 4
  config.panoptic_val.pred_kw.num_steps = 2
  config.model.update(
      resnet_width=4, encoder_dim=16, encoder_depth=1, encoder_mlp_dim=16,
      encoder_heads=2, decoder_dim=8, bottom_dim=16, bottom_depth=1,
      bottom_heads=2)
