"""Opening late costs what opening early does: counted, not timed."""

import pytest

from pp import sources
from pp import stream as pipeline

PP = 'decode|resize(8)|value_range(-1, 1)|keep("image")'


@pytest.mark.parametrize("step", [10, 10**6])
def test_opening_at_a_step_reads_that_step_and_no_other(rooms_tiny_dir, step):
  source = sources.make_source("rooms/tiny", "train", str(rooms_tiny_dir))
  reads, read = [], source.read

  def count(index_B):
    reads.append(list(index_B))
    return read(index_B)

  source.read = count
  batches = pipeline.train_batches(
      source, PP, batch_size=4, seed=3, start_step=step)
  batch = next(batches)
  plan = pipeline.plan_train(
      step, num_examples=source.num_examples, batch_size=4, seed=3)
  assert reads[0] == plan.index_B.tolist()
  # Beyond it only what is fetched ahead, and that is a few batches.
  assert len(reads) <= 6 and len(batch["image"]) == 4
