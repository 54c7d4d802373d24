"""An image encoder from the images of `rooms` alone: a masked autoencoder.

The encoder has the sizes of stage II's in configs/lm_rooms_….py, which can
start from it: --config.model_init="{'encoder': 'WORKDIR'}".

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common, rooms


def pp_strings(res):
  """Preprocessing at a resolution."""
  crop = 'inception_box(area=(0.2, 1.0))|crop_box|flip_lr|'
  finish = f'resize({res}, antialias=True)|value_range(-1, 1)|keep("image")'
  return common.Preprocessing(
      train="decode|" + crop + finish, eval="decode|" + finish)


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  dataset = rooms.TINY if args.tiny else "rooms"
  common.set_data(config, dataset, pp_strings(rooms.RES))
  config.log_training_steps = 200
  config.batch_size = 64
  config.total_steps = 4000
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000

  config.model_name = "mae"
  config.model = dict(
      input_size=(rooms.RES, rooms.RES),
      patch_size=(rooms.PATCH, rooms.PATCH),
      width=128, depth=4, mlp_dim=384, num_heads=4, encoder_style="augreg",
      mask_ratio=0.75, norm_pix_loss=True, decoder_embed_dim=64,
      decoder_depth=2, decoder_num_heads=4, **common.speed_switches())
  rooms.set_optimizer(config)
  config.optax = dict(b1=0.9, b2=0.95)
  config.evals = []
  if args.tiny:
    rooms.shrink(config)
    config.model.update(width=32, depth=1, mlp_dim=32, decoder_embed_dim=16,
                        decoder_depth=1)
  return config
