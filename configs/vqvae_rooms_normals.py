"""Stage I on `rooms`, surface normals. Argument: `tiny`, for tests."""

from configs import common


def pp_strings(res):
  """Preprocessing at a resolution: (train, eval, predict)."""
  image = f"resize({res}, antialias=True)|value_range(-1, 1)|"
  labels = f'resize({res}, key="labels", method="nearest")|'
  load, keep = "decode|rooms_normals|", 'keep("image","labels")'
  return (f"{load}{common.FLIP}mirror_normals|{image}{labels}{keep}",
          load + image + labels + keep, f'decode|{image}keep("image")')


def get_config(arg=None):
  *pp, _ = pp_strings(common.ROOMS_RES)
  config = common.rooms_stage_i(arg, "normals", {"normals": 3}, pp)
  common.add_rooms_stage_i_evals(config, "normals")
  return config
