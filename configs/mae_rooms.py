"""An image encoder from the images of `rooms` alone: a masked autoencoder.

The encoder has the sizes of stage II's in configs/lm_rooms_….py, which can
start from it: --config.model_init="{'encoder': 'WORKDIR'}".

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common


def pp_strings(res):
  """Preprocessing at a resolution."""
  crop = 'inception_box(area=(0.2, 1.0))|crop_box|flip_lr|'
  finish = f'resize({res}, antialias=True)|value_range(-1, 1)|keep("image")'
  return common.Preprocessing(
      train="decode|" + crop + finish, eval="decode|" + finish)


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False)
  config = mlc.ConfigDict()
  dataset = common.TINY_ROOMS if args.tiny else "rooms"
  common.set_rooms_data(config, dataset, pp_strings(common.ROOMS_RES))
  config.batch_size = 64
  config.total_steps = 4000
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000

  config.model_name = "mae"
  config.model = dict(
      input_size=(common.ROOMS_RES, common.ROOMS_RES),
      patch_size=(common.ROOMS_PATCH, common.ROOMS_PATCH),
      width=128, depth=4, mlp_dim=384, num_heads=4, encoder_style="augreg",
      mask_ratio=0.75, norm_pix_loss=True, decoder_embed_dim=64,
      decoder_depth=2, decoder_num_heads=4, **common.speed_switches())
  common.set_rooms_optimizer(config)
  config.optax = dict(b1=0.9, b2=0.95)
  config.evals = []
  if args.tiny:
    common.shrink_rooms(config)
    config.model.update(width=32, depth=1, mlp_dim=32, decoder_embed_dim=16,
                        decoder_depth=1)
  return config
