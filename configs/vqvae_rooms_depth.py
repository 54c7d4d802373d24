"""Stage I on `rooms`, depth in metres.

Arguments: `tiny` (a few steps on a few scenes, for tests).
"""

from configs import common

BINS = 64
TASK_OPTIONS = dict(min_depth=0.001, max_depth=10.0)  # Metres.
OPTIONS = dict(crop="none")


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval, predict)."""
  image = f'resize({res}, antialias=True)|value_range(-1, 1)|'
  labels = (f'resize({res}, key="labels", method="nearest")|'
            'keep("image","labels")')
  load = "decode|nyu_depth|"
  return (load + common.FLIP + image + labels, load + image + labels,
          f'decode|{image}keep("image")')


def get_config(arg=None):
  *pp, _ = pp_strings(common.ROOMS_RES)
  config = common.rooms_stage_i(arg, "depth", {"depth": BINS}, pp)
  config.task_options = TASK_OPTIONS
  common.add_rooms_stage_i_evals(config, "nyu_depth", options=OPTIONS)
  return config
