"""Compares this code with the original implementation, array by array.

  python -m tools.parity DIR [PATTERN]

DIR holds inputs and outputs of the original as `.npz`, `.json` and `.txt`
files; PATTERN, a regular expression, picks some of them by name. Prints a line
per quantity: its name, the largest absolute error, the same relative to the
largest magnitude that is expected, and the verdict. Floats must agree to 1e-5
of that magnitude (what passes through a bfloat16, to its last bit), everything
else exactly. Then a line per file, and one in all. What this code has no
counterpart for is named too, as "not compared".

The exit status is 0 if something was compared and nothing failed.
"""

import collections
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from tools.parity import (
  codes,
  common,
  diffusion,
  diffusion_training,
  dino,
  encoders,
  fixtures,
  givt,
  mae,
  masked,
  measures,
  names,
  optimizer,
  pix2seq_d,
  positions,
  pp,
  quantizers,
  stage1,
  stage2,
)
from tools.parity.common import Verdict
from tools.parity.fixtures import Fixture, Kind
from uvim.cli import app
from uvim.registry import ConfigError

KINDS = (
    Kind("stage1_*.json", stage1.compare),
    Kind("stage2*.json", stage2.compare),
    Kind("pp_ops*.json", pp.compare),
    Kind("optax*.json", optimizer.compare_updates),
    Kind("schedules*.npz", optimizer.compare_schedules),
    Kind("panoptic_predict*.npz", measures.compare_panoptic),
    Kind("eval_metrics*.npz", measures.compare_metrics),
    Kind("param_tree_stage*.txt", names.compare),
    Kind("enc_*.npz", encoders.compare),
    Kind("real_dinov2_small.npz", encoders.compare_real),
    Kind("position_resize*.npz", positions.compare),
    Kind("enc_vit_mae*.npz", mae.compare),
    Kind("dino_loss*.npz", dino.compare),
    Kind("maskgit*.npz", masked.compare),
    Kind("givt*.npz", givt.compare),
    Kind("param_tree_givt_*.txt", givt.compare_names),
    Kind("fsq*.npz", codes.compare_fsq),
    Kind("lfq*.npz", codes.compare_lfq),
    Kind("vq_losses*.npz", quantizers.compare),
    Kind("bits*.json", diffusion.compare_bits),
    Kind("schedules*.json", diffusion.compare_schedules),
    Kind("corruption*.json", diffusion.compare_corruption),
    Kind("steps*.json", diffusion.compare_steps),
    Kind("loss*.json", diffusion_training.compare_loss),
    Kind("postprocess*.json", diffusion_training.compare_postprocess),
    Kind("preprocess*.json", diffusion_training.compare_preprocess),
    Kind("optimizer*.json", diffusion_training.compare_optimizer),
    # `encoders.json` belongs to the pretrained encoders above.
    Kind("encoder[!s]*json", pix2seq_d.compare_encoder),
    Kind("transunet*.json", pix2seq_d.compare_decoder),
    Kind("model*.json", pix2seq_d.compare_model),
    Kind("trajectory*.json", pix2seq_d.compare_trajectory),
    Kind("video*.json", pix2seq_d.compare_video),
    Kind("param_tree_paper*.txt", pix2seq_d.compare_names),
)


def compare(folder: pathlib.Path, pattern: str = "") -> Iterator[Verdict]:
  """The verdict on every quantity of a folder.

  Args:
    folder: where the fixtures lie.
    pattern: only those whose first file's name it occurs in.
  """
  found, others = fixtures.find(folder, KINDS)
  for fixture in found:
    if re.search(pattern, fixture.path.name):
      yield from _judge_fixture(fixture)
  for path in others:
    if re.search(pattern, path.name):
      yield Verdict(path.name, common.NOT_COMPARED,
                    note="no fixture that it belongs to")


def _judge_fixture(fixture: Fixture) -> Iterator[Verdict]:
  file = fixture.path.name
  num_quantities = 0
  for quantity in common.guarded(file, fixture.kind.compare(fixture)):
    num_quantities += 1
    yield common.judge(quantity)
  if not num_quantities:
    yield Verdict(file, common.NOT_COMPARED, note="holds no result")


# ── The report ──────────────────────────────────────────────────────────────


def show(verdicts: Iterable[Verdict]) -> bool:
  """Prints the report; whether all is well."""
  all_verdicts = []
  by_file = collections.defaultdict(list)
  for verdict in verdicts:
    print(_line(verdict), flush=True)
    all_verdicts.append(verdict)
    by_file[_file_of(verdict)].append(verdict)
  print()
  for file, its_verdicts in by_file.items():
    print(f"{file}: {_summary(its_verdicts)}")
  print(f"\n{len(all_verdicts)} quantities: {_summary(all_verdicts)}")
  statuses = {verdict.status for verdict in all_verdicts}
  return common.PASS in statuses and common.FAIL not in statuses


def _file_of(verdict: Verdict) -> str:
  return re.split("[/:]", verdict.name)[0]


def _line(verdict: Verdict) -> str:
  abs_error = _number(verdict.abs_error)
  rel_error = _number(verdict.rel_error)
  note = f"  ({verdict.note})" if verdict.note else ""
  return f"{verdict.name:72}  {abs_error}  {rel_error}  {verdict.status}{note}"


def _number(error: float) -> str:
  return "      –" if np.isnan(error) else f"{error:7.1e}"


def _summary(verdicts: Sequence[Verdict]) -> str:
  """How many of each status, and the largest error that passes."""
  counts = collections.Counter(verdict.status for verdict in verdicts)
  parts = []
  for status in (common.PASS, common.FAIL, common.INFORMATIVE,
                 common.NOT_COMPARED):
    # That nothing failed is worth a word.
    if counts[status] or status == common.FAIL:
      parts.append(f"{counts[status]} {status}")
  text = ", ".join(parts)
  passed = [verdict.rel_error for verdict in verdicts
            if verdict.status == common.PASS]
  errors = [error for error in passed if not np.isnan(error)]
  if errors:
    text += f"; largest relative error that passes {max(errors):.1e}"
  return text


def main(argv: Sequence[str] | None = None) -> int:
  """The command line; returns the exit status."""
  parser = app.make_parser("tools.parity", __doc__)
  parser.add_argument("folder", metavar="DIR", type=pathlib.Path,
                      help="where the fixtures lie")
  parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="",
                      help="only files in whose name it occurs")
  return app.run(parser, _command, argv)


def _command(args) -> int:
  if not args.folder.is_dir():
    raise ConfigError(f"{args.folder} is no folder.")
  # Accelerators round the inputs of matrix products unless told not to.
  with jax.default_matmul_precision("highest"):
    is_well = show(compare(args.folder, args.pattern))
  return 0 if is_well else 1


if __name__ == "__main__":
  sys.exit(main())
