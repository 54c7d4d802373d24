"""Stage II on COCO panoptic: Appendix D, Listing 2, to the letter.

Arguments: `singlehost`, `runlocal`, `split`, the quantizer of stage I (`fsq`,
`lfq`, `vq_gradient`, `residual`, `gumbel` or `givt`, see
configs/vqvae_coco_panoptic.py), `res` (side of the language model's image; the
paper's best model has 1280) and `size` (of the language model: a key of
LM_MODELS; `runlocal` has its own).
"""

import ml_collections as mlc

from configs import common, quantizers
from configs import vqvae_coco_panoptic as stage_i

# Encoder and decoder have the same sizes unless `decoder_layers` is given. The
# last four are the models of Parti (Yu et al. 2022), by its names: what they
# add is depth in the decoder. Of the deep ones, one layer is compiled for all.
LM_MODELS = {
    "base": dict(num_layers=12, num_heads=12, mlp_dim=3072, emb_dim=768),
    "large": dict(num_layers=24, num_heads=16, mlp_dim=4096, emb_dim=1024),
    "350M": dict(num_layers=12, decoder_layers=12, num_heads=16, mlp_dim=4096,
                 emb_dim=1024),
    "750M": dict(num_layers=12, decoder_layers=36, num_heads=16, mlp_dim=4096,
                 emb_dim=1024, scan_layers=True),
    "3B": dict(num_layers=12, decoder_layers=36, num_heads=32, mlp_dim=8192,
               emb_dim=2048, scan_layers=True),
    "20B": dict(num_layers=16, decoder_layers=64, num_heads=64, mlp_dim=16384,
                emb_dim=4096, scan_layers=True),
}
# ViTs of these sizes that were trained on ImageNet-21k. The others start from
# scratch.
ENCODERS = {"base": "howto-i21k-B/16", "large": "howto-i21k-L/16"}
# Oracle and base model see labels and image at this size, whatever `res` is.
LABEL_RES = stage_i.RES
PATCH_SIZE = 16


def pp_strings(res, label_res):
  """The listing's preprocessing."""
  # `image_ctx` first: the second `resize` replaces `image`.
  images = (f'resize({label_res}, inkey="image", outkey="image_ctx")|'
            f'resize({res})|')
  values = 'value_range(-1, 1, key="image_ctx")|value_range(-1, 1)|'
  # `make_canonical` comes last, because a flip, a crop or a resize moves the
  # centers that it sorts by.
  finish = (
      images + f'resize({label_res}, key="labels", method="nearest")|' +
      values + 'make_canonical|keep("image", "image_ctx", "labels")')
  augment = common.FLIP + common.CROP
  return common.Preprocessing(
      train=common.LOAD + augment + finish, eval=common.LOAD + finish,
      predict=images + values + 'keep("image", "image_ctx", "image/id")')


def get_config(arg=None):
  args = common.parse_arg(
      arg, singlehost=False, runlocal=False, res=512, size="large",
      split="validation", **quantizers.ARGUMENTS)
  common.check_choice("size", args.size, LM_MODELS)
  config = mlc.ConfigDict()
  pp = pp_strings(args.res, LABEL_RES)
  set_data(config, pp)

  # Length and periods.
  config.batch_size = 512
  config.num_epochs = 200
  config.log_training_steps = 50
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000
  config.keep_checkpoint_steps = 5000

  set_oracle(config)

  config.model_name = "proj.uvim.lm"
  config.model_init = {"encoder": ENCODERS.get(args.size, "")}
  config.model = mlc.ConfigDict()
  config.model.patches = dict(size=(PATCH_SIZE, PATCH_SIZE))
  config.model.posemb_type = "learn"
  config.model.input_size = (args.res, args.res)
  config.model.update(common.stage_ii_switches())
  config.model.update(LM_MODELS["large" if args.runlocal else args.size])
  set_optimizer(config)
  if args.size not in ENCODERS:
    # Nothing is pretrained: all parts learn at one rate.
    config.lr_mults = []

  common.add_panoptic_evals(config, pp.predict)

  if args.singlehost:
    common.single_host(config, num_epochs=50)
  if args.runlocal:
    # The oracle is that of stage I's `runlocal`, so both share their sizes.
    local = stage_i.LOCAL
    common.run_local_stage_ii(
        config, args.split, local, pp_strings(local.res, local.res))
  quantizers.use(config.oracle.model, args)
  quantizers.set_words(config)
  return config


def set_data(config, pp):
  """The data set, its splits and its preprocessing."""
  config.pp_modules = ["ops_general", "ops_image", "proj.uvim.pp_ops"]
  config.pp_train = pp.train
  config.pp_eval = pp.eval
  config.dataset = "coco/2017_panoptic"
  config.data_dir = mlc.config_dict.placeholder(str)
  config.seed = 0
  common.set_devices(config, sharding="fsdp(data)")
  config.train_split = common.TRAIN_SPLIT
  config.val_split = common.HOLDOUT_SPLIT
  config.shuffle_buffer_size = 50_000


def set_oracle(config):
  """The oracle, whose code is learned."""
  common.set_codes(config)
  config.oracle = mlc.ConfigDict()
  config.oracle.task = "panoptic_segmentation"
  config.oracle.model_init = "oracle.npz"
  config.oracle.model_name = "proj.uvim.vit"
  config.oracle.model = mlc.ConfigDict()
  stage_i.set_model(config.oracle.model)


def set_optimizer(config):
  """Adafactor; the pretrained encoder takes a tenth of the steps."""
  config.optax_name = "scale_by_adafactor"
  config.optax = dict(beta2_cap=0.95)
  config.lr = 0.001
  config.wd = 0.000001
  # The first pattern that matches a name counts.
  config.lr_mults = [
      ("pos_embedding_encoder.*", 0.1),
      ("EmbedPatches.*", 0.1),
      ("encoder.*", 0.1),
      ("decoder.*", 1.0),
  ]
  config.schedule = dict(decay_type="cosine", warmup_steps=4_000)
