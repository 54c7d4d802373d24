"""Stage II on `rooms`; the partner of configs/vqvae_rooms_colorization.py.

Arguments: `tiny`, `fid`, as in stage I.
"""

from configs import common, rooms
from configs import vqvae_rooms_colorization as stage_i


def get_config(arg=None):
  args = common.parse_arg(arg, tiny=False, fid=False)
  pp = stage_i.pp_strings(rooms.RES)
  # The argument goes to stage I too: a tiny config has a tiny oracle.
  config = rooms.stage_ii(stage_i.get_config(arg), pp)
  rooms.add_stage_ii_evals(
      config, "psnr", pp.predict, options=stage_i.options())
  if args.fid:
    stage_i.add_fid(config)
  return config
