"""An image encoder from images alone: a masked autoencoder of the size ViT-B.

The recipe of "Masked Autoencoders Are Scalable Vision Learners", appendix A.1,
on images without labels. `tools.prepare_data images --images DIR --name
my_images --split train` writes such a data set.

Arguments: `epochs` (length of the run), `num_images` (how many the training
split has; the length of the warm-up follows from both), `batch_size` (the step
size follows it), `res` (height and width of an image, a multiple of 16).
"""

import ml_collections as mlc

from configs import common

DATASET = "my_images"
# Training images of ImageNet-1k, for which the recipe was made.
NUM_IMAGES = 1_281_167
EPOCHS = 800
# Share of the run's length: 40 of 800 epochs.
WARMUP = 0.05
# Step size and weight decay at a batch of 256 images.
LR_OF_256 = 1.5e-4
WEIGHT_DECAY = 0.05


def pp_strings(res):
  """Preprocessing at a resolution."""
  finish = 'value_range(-1, 1)|keep("image")'
  # A crop has at least a fifth of the image.
  crop = (f'decode_jpeg_and_inception_crop({res}, area_min=20, '
          'method="bicubic", antialias=True)|flip_lr|')
  square = f'decode|central_crop|resize({res}, "bicubic", antialias=True)|'
  return common.Preprocessing(train=crop + finish, eval=square + finish)


def get_config(arg=None):
  args = common.parse_arg(
      arg, epochs=EPOCHS, num_images=NUM_IMAGES, batch_size=4096, res=224)
  config = mlc.ConfigDict()
  config.dataset = DATASET
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  config.train_split = "train[2%:]"
  config.val_split = "train[:2%]"
  pp = pp_strings(args.res)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.batch_size = args.batch_size
  config.num_epochs = args.epochs
  config.log_training_steps = 50
  config.log_eval_steps = 5000
  config.checkpoint_steps = 1000
  common.set_devices(config, sharding="fsdp(data)")

  config.model_name = "mae"
  config.model = dict(
      input_size=(args.res, args.res), patch_size=(16, 16), width=768, depth=12,
      mlp_dim=3072, num_heads=12, encoder_style="augreg", mask_ratio=0.75,
      norm_pix_loss=True, decoder_embed_dim=512, decoder_depth=8,
      decoder_num_heads=16, **common.speed_switches())
  steps_of_epoch = args.num_images / args.batch_size
  set_optimizer(config, num_steps=args.epochs * steps_of_epoch)
  config.evals = []
  return config


def set_optimizer(config, num_steps):
  """AdamW, whose step size grows with the batch."""
  config.optax_name = "scale_by_adam"
  config.optax = dict(b1=0.9, b2=0.95)
  config.lr = LR_OF_256 * config.batch_size / 256
  # AdamW's decay is multiplied by the step size; that of a config is not.
  config.wd = WEIGHT_DECAY * config.lr
  config.schedule = dict(
      decay_type="cosine", warmup_steps=round(WARMUP * num_steps))
