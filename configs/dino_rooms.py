"""An image encoder from the images of `rooms` alone: DINO.

The encoder has the sizes of stage II's in configs/lm_rooms_….py, which can
start from it, given the same style:
--config.model_init="{'encoder': 'WORKDIR'}" --config.model.encoder_style=dino.

Arguments: `jitter` (colors change by chance, as in DINO; here all crops of an
image change alike, where DINO draws for each, and nothing is blurred or
solarized); `tiny` (a few steps on a few scenes, for tests).
"""

import ml_collections as mlc

from configs import common, rooms

# Larger than the global crops, which are cut out of it on the device.
IMAGE_RES = 64
LOCAL_RES = 24
# Half as strong as in SimCLR, and in hue and saturation less than that.
JITTER = ("color_jitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)|"
          "random_gray|")


def pp_strings(res, recolor=""):
  """Preprocessing at a resolution.

  Args:
    res: side of the image.
    recolor: ops that training puts behind the resize.
  """
  resize = f"decode|resize({res}, antialias=True)|"
  scale = 'value_range(-1, 1)|keep("image")'
  return common.Preprocessing(
      train=resize + recolor + scale, eval=resize + scale)


def get_config(arg=None):
  args = common.parse_arg(arg, jitter=False, tiny=False)
  config = mlc.ConfigDict()
  dataset = rooms.TINY if args.tiny else "rooms"
  recolor = JITTER if args.jitter else ""
  common.set_data(config, dataset, pp_strings(IMAGE_RES, recolor))
  config.log_training_steps = 200
  config.batch_size = 64
  config.total_steps = 4000
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000

  config.model_name = "dino"
  config.model = dict(
      input_size=(rooms.RES, rooms.RES),
      patch_size=(rooms.PATCH, rooms.PATCH),
      width=128, depth=4, mlp_dim=384, num_heads=4, encoder_style="dino",
      local_crops_size=(LOCAL_RES, LOCAL_RES), local_crops_number=4,
      global_crops_scale=(0.4, 1.0), local_crops_scale=(0.05, 0.4),
      out_dim=1024, hidden_dim=256, bottleneck_dim=64, teacher_temp=0.07,
      warmup_teacher_temp=0.04, warmup_teacher_temp_steps=1200,
      momentum_teacher=0.99, freeze_last_layer_steps=128,
      **common.speed_switches())
  # It follows an override of the length.
  config.model.momentum_teacher_steps = config.get_ref("total_steps")
  rooms.set_optimizer(config)
  config.evals = []
  if args.tiny:
    rooms.shrink(config)
    config.model.update(
        width=32, depth=1, mlp_dim=32, local_crops_number=2, out_dim=16,
        hidden_dim=16, bottleneck_dim=8, warmup_teacher_temp_steps=2,
        freeze_last_layer_steps=1)
  return config
