"""Stage I on `rooms`, colorization.

Arguments: `tiny` (a few steps on a few scenes, for tests), `fid` (also scores
how far the predicted colors are from those of other scenes).
"""

from configs import common, rooms

CLASSES = {"color": 3}  # R, G, B per pixel.
# The labels are the colors; the image keeps only the luma.
SPLIT_COLOR = ('copy("image", "labels")|rgb_to_grayscale_to_rgb|'
               'value_range(-1, 1)|value_range(-1, 1, key="labels")|')


def pp_strings(res):
  """Preprocessing at a resolution."""
  load = _load(res)
  keep = 'keep("image","labels")'
  return common.Preprocessing(
      # The flip comes first: labels and image are still the same tensor.
      train=load + "flip_lr|" + SPLIT_COLOR + keep,
      eval=load + SPLIT_COLOR + keep,
      predict=load + SPLIT_COLOR + 'keep("image")')


def _load(res):
  return f"decode|resize({res}, antialias=True)|"


def options():
  """What the colors of a prediction are compared with."""
  truth = _load(rooms.RES) + SPLIT_COLOR + 'keep("labels")'
  return dict(pp_truth=truth)


def add_fid(config):
  """Adds a Fréchet distance beside each PSNR, which a gray mean would win.

  It is the distance between mean colors of quarters, because no package has
  the weights of Inception.
  """
  num_references = 8 if rooms.is_tiny(config) else 512
  for name, _ in list(config.evals):
    block = config[name].copy_and_resolve_references()
    block.options = dict(features="quadrants",
                         reference_split=f"train[:{num_references}]")
    # A copy, so that the options of the PSNR stay.
    config[f"{name}_fid"] = block
    config.evals = [*config.evals, (f"{name}_fid", "coltran_fid")]


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False, fid=False)
  config = rooms.stage_i(
      "colorization", CLASSES, pp_strings(rooms.RES), tiny=args.tiny)
  rooms.add_stage_i_evals(config, "psnr", options=options())
  if args.fid:
    add_fid(config)
  return config
