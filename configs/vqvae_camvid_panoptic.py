"""Stage I on CamVid's road scenes, panoptic, with a frozen DINOv2-S.

For two cores: 367 training images, labels of 96 × 128 pixels. The sizes are
those of the trials in docs/encoders.md; tools.make_config writes such files.

CamVid has a class for each pixel and no instances, so the task is semantic
segmentation: each connected region of a class of things is an instance. Make
the data set with `tools.prepare_data masks --name camvid` for `--split train`
and `--split validation`; see docs/data.md.

Arguments: `encoder=NAME` (a name, address or file of a DINOv2-S; `none`: the
model reads the image by patches, as in the paper).
"""

import ml_collections as mlc

from configs import common, small

DATA = dict(
    dataset="camvid",
    data_dir=None,
    train_split="train",
    val_split="validation")
# Eleven classes and void. The last three are cars, pedestrians, bicyclists.
CLASSES = {"semantics": 11 + 1}
THINGS = (9, 10, 11)
LABEL_SIZE = (96, 128)
PATCH = 8
# A word for each patch. A code of fewer words than patches has to be resized,
# and then its words say less about their own place.
CODE_GRID = (12, 16)
ENCODER = "dinov2-S/14"
# 24 × 32 patches of 14 pixels: four for each of the model's 12 × 16 tokens.
ENCODER_SIZE = (336, 448)
EVALUATOR = "coco_panoptic"
# Smaller segments are more often wrong than right.
SCORE = dict(split="validation", pred_kw=dict(min_fraction=0.0005))

LOAD = 'decode|coco_panoptic|concat(["semantics"], "labels")|'


def image_size(encoder):
  """Height and width of the image that a model with an encoder sees."""
  return LABEL_SIZE if encoder == small.NO_ENCODER else ENCODER_SIZE


def pp_strings(size, ctx_size=None):
  """Preprocessing with images of a size.

  Args:
    size: height and width of `image`.
    ctx_size: of `image_ctx`, which stage I sees in stage II; None: it sees
      `image` too.
  """
  # A third of the image at least: a crop still shows a street.
  crop = ('inception_box(area=(0.35, 1.0), aspect=(1.1, 1.6))|'
          'crop_box(key="image")|crop_box(key="labels")|')
  image = f'resize({size}, antialias=True)|value_range(-1, 1)|'
  kept = '"image"'
  if ctx_size is not None:
    # First: the other `resize` replaces `image`.
    ctx = (f'resize({ctx_size}, inkey="image", outkey="image_ctx", '
           'antialias=True)|value_range(-1, 1, key="image_ctx")|')
    image = ctx + image
    kept += ',"image_ctx"'
  labels = f'resize({LABEL_SIZE}, key="labels", method="nearest")|'
  keep_all = f'keep({kept},"labels")'
  return common.Preprocessing(
      train=LOAD + common.FLIP + crop + image + labels + keep_all,
      eval=LOAD + image + labels + keep_all,
      predict=f'decode|{image}keep({kept})')


def get_config(arg=None):
  args = common.parse_arg(arg, encoder=ENCODER)
  config = mlc.ConfigDict()
  config.task = "semantic_segmentation"
  config.task_options = dict(things=THINGS)
  pp = pp_strings(image_size(args.encoder))
  small.set_data(config, pp, **DATA)
  config.batch_size = 8
  config.total_steps = 4000
  config.log_training_steps = 100
  config.log_eval_steps = 1000
  config.checkpoint_steps = 1000

  config.model_name = "vit"
  config.model = dict(
      input_size=LABEL_SIZE, patch_size=(PATCH, PATCH),
      code_len=CODE_GRID[0] * CODE_GRID[1], width=256, oracle_depth=2,
      base_model_depth=2, mlp_dim=768, num_heads=8, dict_size=256,
      codeword_dim=32, dict_momentum=0.98, with_encoder_ctx=True,
      with_decoder_ctx=True, **common.stage_i_switches())
  config.model.code_grid = CODE_GRID
  common.set_labels(config.model, CLASSES)
  small.see_with_encoder(config, args.encoder, ENCODER_SIZE)
  small.set_optimizer(config, lr=1e-3, warmup_steps=200)
  small.add_stage_i_evals(config, EVALUATOR, pp, **SCORE)
  return config
