"""Stage II on `rooms`; the partner of configs/vqvae_rooms_panoptic.py.

Arguments: `tiny` (a few steps on a few scenes, for tests); `hard` (the crowded
scenes of `rooms/hard`, of 64 × 64 pixels); `encoder=WORKDIR`
(both stages see with the encoder of a configs/mae_rooms.py run); `latent` (the
words lie on no grid); the quantizer of stage I (`fsq`, `lfq`, `vq_gradient`,
`residual`, `gumbel` or `givt`); `masked` (a code takes a few passes in place of
one for each word, as with MaskGIT).
"""

from configs import common, quantizers, rooms
from configs import vqvae_rooms_panoptic as stage_i


def get_config(arg=None):
  args = common.parse_arg(
      arg, tiny=False, hard=False, encoder="", latent=False, masked=False,
      **quantizers.ARGUMENTS)
  pp = stage_i.pp_strings(rooms.side_of(args.hard))
  # The argument goes to stage I too: a tiny config has a tiny oracle, and the
  # vocabulary is that of the oracle's quantizer.
  config = rooms.stage_ii(stage_i.get_config(arg), pp)
  if args.encoder:
    rooms.see_with(config, args.encoder)
  rooms.add_stage_ii_evals(
      config, "coco_panoptic", pp.predict, pred_kw=stage_i.PRED_KW)
  if args.masked:
    rooms.use_masked_words(config)
  return config
