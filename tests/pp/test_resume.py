"""Opening late costs what opening early does: counted, not timed."""

import pytest

from pp import order, sources, stream
from tests.pp.fakes import CountingSource

PP = 'decode|resize(8)|value_range(-1, 1)|keep("image")'


@pytest.mark.parametrize("step", [10, 10**6])
def test_opening_at_a_step_reads_that_step_and_no_other(rooms_tiny_dir, step):
  source = CountingSource(
      sources.make_source("rooms/tiny", "train", str(rooms_tiny_dir)))
  batches = stream.TfdsSplit(source).train_batches(
      PP, batch_size=4, seed=3, start_step=step)
  batch = next(batches)
  plan = order.plan_train(
      step, num_examples=source.num_examples, batch_size=4, seed=3)
  assert source.reads[0] == plan.index_B.tolist()
  # Beyond it only what is fetched ahead, and that is a few batches.
  assert len(source.reads) <= 6
  assert len(batch["image"]) == 4
