"""The measurements on a GPU, the most important one first."""

import functools
from collections.abc import Callable, Iterator, Mapping

from tools.bench.gpu import decoding, kernels, machine, training
from tools.bench.gpu.lines import Lines
from tools.bench.gpu.setting import Ceilings, Line, Setting

Part = Callable[[Setting, Ceilings], Iterator[Line]]


def make_parts(setting: Setting) -> dict[str, Part]:
  """Name → part, in the order in which they run."""
  few, more, many = setting.batch_sizes

  def stage_i(batch_size, **fields):
    return functools.partial(
        training.stage_i, batch_size=batch_size, **fields)

  def stage_ii(batch_size, **fields):
    return functools.partial(
        training.stage_ii, batch_size=batch_size, **fields)

  def decode(batch_size):
    return functools.partial(decoding.decode, batch_size=batch_size)

  def words_a_pass(batch_size):
    return functools.partial(decoding.words_a_pass, batch_size=batch_size)

  return {
      # Is cuDNN's attention taken, is it right, and what does it save?
      "attention": kernels.attention,
      # By reading the code, rows would take as long as the model.
      "label_embedding": kernels.label_embedding,
      "stage_i": stage_i(few),
      "stage_ii": stage_ii(few),
      "decode": decode(setting.decode_batch),
      # What cuDNN's attention saves.
      "stage_i_blocks": stage_i(few, attention="blocks"),
      "loss_chunks": kernels.loss_chunks,
      "decode_one": decode(1),
      "words_few": words_a_pass(setting.few_images),
      "words": words_a_pass(setting.decode_batch),
      "host": machine.host_to_device,
      "codebook": kernels.codebook,
      "kernels": decoding.slowest_kernels,
      # Do larger batches pay, and do they fit?
      "stage_i_more": stage_i(more),
      "stage_ii_more": stage_ii(more),
      "stage_i_many": stage_i(many),
      "stage_ii_many": stage_ii(many, remat="block"),
      # What a scan over layers costs, and what it saves the compiler.
      "stage_i_unrolled": stage_i(few, scan_layers=False),
  }


def run(parts: Mapping[str, Part], setting: Setting, lines: Lines) -> None:
  """Measures the ceilings, and then the parts against them.

  Args:
    parts: some of `make_parts`.
    setting: of the measurements.
    lines: where the results go.
  """
  lines.waiting = list(parts)
  # The first measurement gives them. If it fails, the others lack the shares.
  ceilings = Ceilings()

  def measure_ceilings():
    nonlocal ceilings
    ceilings, line = machine.measure_ceilings(setting)
    yield line

  lines.run_part("ceilings", measure_ceilings)
  for name, part in parts.items():
    lines.waiting.remove(name)
    lines.run_part(name, functools.partial(part, setting, ceilings))
  lines.part = "end"
  lines.write({"num_failed": lines.num_failed})
