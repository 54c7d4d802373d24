"""Stage II on `rooms`; the partner of configs/vqvae_rooms_depth.py.

Arguments: `tiny` (a few steps on a few scenes, for tests), `hard` (the crowded
scenes of `rooms/hard`, of 64 × 64 pixels), and the quantizer of stage I: `fsq`,
`lfq`, `vq_gradient`, `residual`, `gumbel` or `givt`.
"""

from configs import rooms
from configs import vqvae_rooms_depth as stage_i


def get_config(arg=None):
  args = stage_i.parse_arg(arg)
  pp = stage_i.pp_strings(rooms.side_of(args.hard))
  # The argument goes to stage I too: a tiny config has a tiny oracle, and the
  # vocabulary is that of the oracle's quantizer.
  config = rooms.stage_ii(stage_i.get_config(arg), pp)
  config.oracle.task_options = stage_i.TASK_OPTIONS
  rooms.add_stage_ii_evals(
      config, "nyu_depth", pp.predict, options=stage_i.OPTIONS)
  return config
