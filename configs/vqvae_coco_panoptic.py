"""Stage I on COCO panoptic: Appendix D, Listing 1, to the letter.

Arguments: `singlehost` (one host, a tenth of the epochs), `runlocal` (a small
model that overfits the few images of `split`, on a CPU), a quantizer in place
of `vq`: `fsq`, `lfq`, `vq_gradient`, `residual`, `gumbel` or, without words,
`givt`; see configs/quantizers.py.
"""

import ml_collections as mlc

from configs import common, quantizers

RES = 512
PATCH_SIZE = 16
# Two ids per pixel. One class is void; no image of COCO has more than 98
# segments.
CLASSES = {"semantics": 133 + 1, "instances": 100}
# The smaller patch leaves 16 × 16 of them, one for each word.
LOCAL = common.Local(evaluator="panoptic_val", batch_size=5, total_steps=600)


def pp_strings(res):
  """The listing's preprocessing at a resolution."""
  # Both the labels and the image are resized, the labels without mixing ids.
  finish = (
      f'resize({res})|'
      f'resize({res}, key="labels", method="nearest")|'
      'value_range(-1, 1)|make_canonical|'
      'keep("image","labels")')
  # Before `finish`: its `make_canonical` must see what the flip and the crop
  # leave.
  augment = common.FLIP + common.CROP
  return common.Preprocessing(
      train=common.LOAD + augment + finish, eval=common.LOAD + finish)


def get_config(arg=None):
  args = common.parse_arg(
      arg, singlehost=False, runlocal=False, split="validation",
      **quantizers.ARGUMENTS)
  config = mlc.ConfigDict()
  config.task = "panoptic_segmentation"
  set_data(config)

  # Length and periods.
  config.batch_size = 1024
  config.num_epochs = 1000
  config.log_training_steps = 50
  config.log_eval_steps = 250
  config.checkpoint_steps = 1000
  config.keep_checkpoint_steps = 20_000

  config.model_name = "proj.uvim.vit"
  config.model = mlc.ConfigDict()
  set_model(config.model)
  config.model.dict_momentum = 0.995
  set_optimizer(config)
  if args.givt:
    # A tenth of the steps warms up.
    set_givt_recipe(config, num_epochs=500, warmup_steps=5_576)

  # The evaluators put `decode` in front by themselves.
  common.add_panoptic_evals(config, config.pp_eval.replace("decode|", ""))

  if args.singlehost:
    common.single_host(config, num_epochs=100)
  if args.runlocal:
    common.run_local_stage_i(config, args.split, LOCAL, pp_strings(LOCAL.res))
  quantizers.use(config.model, args)
  return config


def set_data(config):
  """The data set, its splits and its preprocessing."""
  config.dataset = "coco/2017_panoptic"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  common.set_devices(config, sharding="fsdp(data)")
  common.set_features(config)
  config.val_split = common.HOLDOUT_SPLIT
  config.train_split = common.TRAIN_SPLIT
  pp = pp_strings(RES)
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.shuffle_buffer_size = 25_000


def set_model(model):
  """The network of stage I, which stage II has as its oracle."""
  model.input_size = (RES, RES)
  model.patch_size = (PATCH_SIZE, PATCH_SIZE)
  model.code_len = 256
  model.width = 768
  model.oracle_depth = 6  # The oracle is half a ViT-B,
  model.base_model_depth = 12  # the base model a whole one.
  model.mlp_dim = 3072
  model.num_heads = 12
  model.dict_size = 4096  # Number of words in the codebook.
  model.codeword_dim = 768
  model.with_encoder_ctx = True  # Both see the image.
  model.with_decoder_ctx = True
  model.update(common.stage_i_switches())
  common.set_labels(model, CLASSES)


def set_givt_recipe(config, num_epochs, warmup_steps):
  """What GIVT's authors do otherwise where the code has real numbers."""
  config.num_epochs = num_epochs
  config.optax_name = "scale_by_adam"
  config.optax = dict(b2=0.95)
  config.lr = 1e-3
  config.wd = 1e-4
  config.schedule.warmup_steps = warmup_steps


def set_optimizer(config):
  """Adafactor, with a cosine schedule and clipped gradients."""
  config.optax_name = "scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.lr = 4e-4
  config.wd = 4e-5
  config.schedule = dict(decay_type="cosine", warmup_steps=4_000)
  config.grad_clip_norm = 1.0
