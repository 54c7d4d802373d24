"""Pix2Seq-D on `rooms`, panoptic segmentation, for two cores.

A rival of UViM: one model, which takes the noise out of a mask in a number of
steps. It reads the data of configs/vqvae_rooms_panoptic.py. As in the paper, a
mask has half the side of its image.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common, rooms, vqvae_rooms_panoptic

MASK_RES = rooms.RES // 2


def pp_strings(res, mask_res):
  """Preprocessing for images and masks of these sides."""
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  # The model draws the ids, so their order here says nothing.
  labels = (f'resize({mask_res}, key="labels", method="nearest")|'
            'keep("image","labels")')
  return common.Preprocessing(
      train=common.LOAD + common.FLIP + image + labels,
      eval=common.LOAD + image + labels,
      predict=f'decode|{image}keep("image")')


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  config.task = "panoptic_segmentation"
  pp = pp_strings(rooms.RES, MASK_RES)
  common.set_data(config, rooms.TINY if args.tiny else "rooms", pp)
  config.log_training_steps = 200
  config.batch_size = 16
  config.total_steps = 6000
  config.log_eval_steps = 3000
  config.checkpoint_steps = 1000
  common.set_features(config)

  classes = vqvae_rooms_panoptic.CLASSES
  config.model_name = "pix2seq_d"
  config.model = dict(
      input_size=(rooms.RES, rooms.RES), mask_size=(MASK_RES, MASK_RES),
      num_classes=classes["semantics"], num_ids=classes["instances"],
      num_bits=8,
      # Not the paper's 0.1: what can still be read in noise depends on b² times
      # the pixels of an instance, and here it has a four-hundredth of them. At
      # 1, most times are too easy: the pixels beside it tell a pixel's bits.
      input_scale=0.5,
      # At 1, the network could hardly tell the noisiest tenth of the times
      # apart, in which instances are told from each other.
      time_scaling=1000.0,
      # The paper's, named for the sweeps.
      coding="binary", output="softmax", schedule="cosine", weight_power=0.2,
      # 12 x 12 and 6 x 6 places in the decoder. A place has 32 bits. They must
      # fit through the decoder's first layer beside the image, so it has more
      # channels than that.
      stem="small", resnet_width=16, resnet_blocks=(1, 1, 1),
      encoder_dim=128, encoder_depth=3, encoder_mlp_dim=384, encoder_heads=4,
      mask_patch=2, decoder_dim=64, channel_multipliers=(1, 2),
      bottom_dim=128, bottom_depth=3, bottom_heads=4, ema_decay=0.999,
      **common.speed_switches())
  rooms.set_optimizer(config)
  if args.tiny:
    rooms.shrink(config)
    config.model.update(
        resnet_width=4, encoder_dim=16, encoder_depth=1, encoder_mlp_dim=16,
        encoder_heads=2, decoder_dim=8, bottom_dim=16, bottom_depth=1,
        bottom_heads=2)
  _add_evals(config, pp, args.tiny)
  return config


def _add_evals(config, pp, tiny):
  """Scores samples of a few numbers of steps, and what a mask costs in bits.

  The first of them is what the panels show.
  """
  numbers = (20, 5, 1)
  split = "validation"
  log_steps = config.log_eval_steps
  if tiny:
    numbers = (2,)
    split = "validation[:8]"
    log_steps = config.total_steps
  config.evals = []
  for num_steps in numbers:
    name = f"steps_{num_steps}"
    config.evals = [*config.evals, (name, "coco_panoptic")]
    config[name] = dict(
        split=split, log_steps=log_steps, pp=pp.predict, pred="predict",
        pred_kw=dict(
            vqvae_rooms_panoptic.PRED_KW, num_steps=num_steps,
            time_difference=1.0, seed=0))
  config.evals = [*config.evals, ("bound", "mean")]
  config.bound = dict(
      split=split, log_steps=log_steps, pp=pp.eval, pred="bound",
      pred_kw=dict(num_levels=8, seed=0))
