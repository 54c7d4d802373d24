"""Stage I on `rooms`, colorization.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

from configs import common


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval, predict, truth)."""
  load = f"decode|resize({res}, antialias=True)|"
  split = ('copy("image", "labels")|rgb_to_grayscale_to_rgb|'
           'value_range(-1, 1)|value_range(-1, 1, key="labels")|')
  flip = 'flip_lr|'
  keep = 'keep("image","labels")'
  return (load + flip + split + keep, load + split + keep,
          load + split + 'keep("image")', load + split + 'keep("labels")')


def options():
  """What the colours of a prediction are compared with."""
  return dict(pp_truth=pp_strings(common.ROOMS_RES)[-1])


def get_config(arg=None):
  *pp, _, _ = pp_strings(common.ROOMS_RES)
  config = common.rooms_stage_i(arg, "colorization", {"color": 3}, pp)
  common.add_rooms_stage_i_evals(config, "psnr", options=options())
  return config
