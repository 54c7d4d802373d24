"""Loss of Pix2Seq-D: cross-entropy of bit patterns, or ℓ2 of analog bits."""

from configs.sweeps import recipe

PUBLISHED = {"l2": 41.9, "cross_entropy": 43.9}


def get_sweep(size):
  return recipe.Sweep(
      title="Pix2Seq-D: loss (its Table 4; PQ on held-out images)",
      recipe=recipe.pix2seq_d(size),
      cells={
          "l2": recipe.pix2seq_d_cell("ℓ2", {"model.output": "x"}),
          "cross_entropy": recipe.pix2seq_d_cell(
              "cross-entropy", {"model.output": "softmax"})},
      scores={
          "quality": recipe.pix2seq_d_score(size, "PQ", "PQ", PUBLISHED),
          "bits": recipe.Score(
              "% of right bits", 1, "val/bit_accuracy", scale=100)},
      comparisons=[
          recipe.compare_cells(
              "cross-entropy is better than ℓ2", "quality", "cross_entropy",
              ">", "l2", "43.9 : 41.9")])
