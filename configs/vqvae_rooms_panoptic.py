"""Stage I on `rooms`, panoptic segmentation.

Arguments: `tiny` (a few steps on a few scenes, for tests); `hard` (the crowded
scenes of `rooms/hard`, of 64 × 64 pixels); `encoder=WORKDIR`
(oracle and base model see with the encoder of a configs/mae_rooms.py run);
`latent` (the words lie on no grid, as in TiTok); a quantizer in place of `vq`:
`fsq`, `lfq`, `vq_gradient`, `residual`, `gumbel` or, without words, `givt`; see
configs/quantizers.py;
`masked` changes stage II alone.
"""

from configs import common, quantizers, rooms

# 12 categories and void; at most 8 things and 5 kinds of stuff in a scene.
CLASSES = {"semantics": 12 + 1, "instances": 16}
# 24 categories; at most 14 things.
HARD_CLASSES = {"semantics": 24 + 1, "instances": 24}
# Paper: objects under 0.1 % of the image are dropped.
PRED_KW = dict(min_fraction=0.001)


def pp_strings(res):
  """Preprocessing at a resolution."""
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  # Ids cannot be mixed, so "nearest". Their order follows the final centers.
  labels = (f'resize({res}, key="labels", method="nearest")|make_canonical|'
            'keep("image","labels")')
  return common.Preprocessing(
      train=common.LOAD + common.FLIP + image + labels,
      eval=common.LOAD + image + labels,
      predict=f'decode|{image}keep("image")')


def get_config(arg=None):
  args = common.parse_arg(
      arg, tiny=False, hard=False, encoder="", latent=False, masked=False,
      **quantizers.ARGUMENTS)
  config = rooms.stage_i(
      "panoptic_segmentation", HARD_CLASSES if args.hard else CLASSES,
      pp_strings(rooms.side_of(args.hard)), tiny=args.tiny, hard=args.hard)
  quantizers.use(config.model, args)
  if args.latent:
    config.model.bottleneck = "latent"
  if args.encoder:
    rooms.see_with(config, args.encoder)
  rooms.add_stage_i_evals(config, "coco_panoptic", pred_kw=PRED_KW)
  return config
