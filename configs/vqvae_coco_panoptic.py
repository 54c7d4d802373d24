"""Stage I on COCO panoptic: Appendix D, Listing 1, to the letter.

Arguments: `singlehost` (one host, a tenth of the epochs), `runlocal` (a small
model that overfits the few images of `split`, on a CPU).
"""

import ml_collections as mlc

from configs import common

RES = 512
PATCH_SIZE = 16


def pp_strings(res):
  """The listing's preprocessing at a resolution: (train, eval)."""
  finish = (
      f'resize({res})|'
      f'resize({res}, key="labels", method="nearest")|'
      'value_range(-1, 1)|make_canonical|'
      'keep("image","labels")')
  return common.LOAD + common.FLIP + common.CROP + finish, common.LOAD + finish


def get_config(arg=None):
  arg = common.parse_arg(
      arg, singlehost=False, runlocal=False, split="validation")
  config = mlc.ConfigDict()

  config.task = "panoptic_segmentation"

  config.dataset = "coco/2017_panoptic"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  common.set_devices(config, sharding="fsdp(data)")
  config.val_split = "train[:4096]"
  config.train_split = "train[4096:]"

  config.batch_size = 1024
  config.num_epochs = 1000

  config.pp_train, config.pp_eval = pp_strings(RES)
  config.shuffle_buffer_size = 25_000

  config.log_training_steps = 50
  config.log_eval_steps = 250
  config.checkpoint_steps = 1000
  config.keep_checkpoint_steps = 20_000

  config.model_name = "proj.uvim.vit"
  config.model = mlc.ConfigDict()
  config.model.input_size = (RES, RES)
  config.model.patch_size = (PATCH_SIZE, PATCH_SIZE)
  config.model.code_len = 256
  config.model.width = 768
  config.model.oracle_depth = 6
  config.model.base_model_depth = 12
  config.model.mlp_dim = 3072
  config.model.num_heads = 12
  config.model.dict_size = 4096  # Number of words in the dictionary.
  config.model.codeword_dim = 768
  config.model.dict_momentum = 0.995
  config.model.with_encoder_ctx = True
  config.model.with_decoder_ctx = True
  config.model.update(common.stage_i_switches())
  set_labels(config.model)

  config.optax_name = "scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.lr = 4e-4
  config.wd = 4e-5
  config.schedule = dict(decay_type="cosine", warmup_steps=4_000)
  config.grad_clip_norm = 1.0

  common.add_panoptic_evals(config, config.pp_eval.replace("decode|", ""))

  if arg["singlehost"]:
    config.batch_size = 128
    config.num_epochs = 100
  if arg["runlocal"]:
    _runlocal(config, arg["split"])
  return config


def set_labels(model):
  """What the oracle reads and the base model writes: two ids per pixel."""
  height, width = model.patch_size
  model.inputs = mlc.ConfigDict({
      "semantics": (133 + 1, height * width),  # +1 for void.
      "instances": (100, height * width),  # COCO has at most 98 a picture.
  })
  model.outputs = model.inputs


def _runlocal(config, split):
  """A model small enough for two cores that learns a few pictures by heart."""
  res, patch = 128, 8
  common.overfit(config, split, evaluator="panoptic_val", batch_size=5,
                 total_steps=600)
  config.pp_train = config.pp_eval = config.panoptic_val.pp = pp_strings(res)[1]
  config.model.update(common.small_stage_i(res, patch))
  set_labels(config.model)
