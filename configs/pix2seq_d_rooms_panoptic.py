"""Pix2Seq-D on `rooms`, panoptic segmentation, for two cores.

A rival of UViM: one model, which takes the noise out of a mask in a number of
steps. It reads the data of configs/vqvae_rooms_panoptic.py. It has not been
trained to the end; docs/training.md says how far it came.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common, rooms, vqvae_rooms_panoptic


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  config.task = "panoptic_segmentation"
  pp = vqvae_rooms_panoptic.pp_strings(rooms.RES)
  common.set_data(config, rooms.TINY if args.tiny else "rooms", pp)
  config.log_training_steps = 200
  config.batch_size = 8
  config.total_steps = 4000
  config.log_eval_steps = 2000
  config.checkpoint_steps = 1000
  common.set_features(config)

  classes = vqvae_rooms_panoptic.CLASSES
  config.model_name = "pix2seq_d"
  config.model = dict(
      input_size=(rooms.RES, rooms.RES), mask_size=(rooms.RES, rooms.RES),
      num_classes=classes["semantics"], num_ids=classes["instances"],
      num_bits=8,
      # Not the paper's 0.1: what can still be read in noise depends on b² times
      # the pixels of an instance, and here it has a hundredth of them.
      input_scale=1.0,
      # The paper's, named for the sweeps.
      coding="binary", output="softmax", schedule="cosine", weight_power=0.2,
      # 24 x 24, 12 x 12 and 6 x 6 places in both networks.
      stem="small", resnet_width=32, resnet_blocks=(1, 1, 1),
      encoder_dim=128, encoder_depth=3, encoder_mlp_dim=384, encoder_heads=4,
      mask_patch=2, fuse_dim=32, decoder_dim=32, channel_multipliers=(1, 2, 4),
      bottom_dim=128, bottom_depth=2, bottom_heads=4, ema_decay=0.999,
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
  """Scores samples of a few numbers of steps.

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
