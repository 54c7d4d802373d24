"""Stage I on `rooms`, depth in meters.

Arguments: `tiny` (a few steps on a few scenes, for tests); `hard` (the crowded
scenes of `rooms/hard`, of 64 × 64 pixels); a quantizer in place of `vq`: `fsq`,
`lfq`, `vq_gradient`, `residual`, `gumbel` or, without words, `givt`; see
configs/quantizers.py.
"""

from configs import common, quantizers, rooms

CLASSES = {"depth": 64}  # Bins of the depth range.
TASK_OPTIONS = dict(min_depth=0.001, max_depth=10.0)  # Meters.
# The crop of Eigen et al. is for frames of NYU.
OPTIONS = dict(crop="none")


def pp_strings(res):
  """Preprocessing at a resolution."""
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  # "nearest" mixes no depths across an edge.
  labels = (f'resize({res}, key="labels", method="nearest")|'
            'keep("image","labels")')
  load = "decode|nyu_depth|"
  return common.Preprocessing(
      train=load + common.FLIP + image + labels,
      eval=load + image + labels,
      predict=f'decode|{image}keep("image")')


def parse_arg(arg):
  """The arguments, which stage II shares."""
  return common.parse_arg(
      arg, tiny=False, hard=False, **quantizers.ARGUMENTS)


def get_config(arg=None):
  args = parse_arg(arg)
  config = rooms.stage_i(
      "depth", CLASSES, pp_strings(rooms.side_of(args.hard)), tiny=args.tiny,
      hard=args.hard)
  quantizers.use(config.model, args)
  config.task_options = TASK_OPTIONS
  rooms.add_stage_i_evals(config, "nyu_depth", options=OPTIONS)
  return config
