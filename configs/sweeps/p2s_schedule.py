"""Noise schedules of Pix2Seq-D: how signal turns into noise.

Nichol & Dhariwal 2021 (arXiv:2102.09672) compare the linear schedule with
theirs on images: bits per number, and the Fréchet distance. Here the same
schedules make masks.
"""

from configs.sweeps import recipe

# ImageNet 64 × 64, 4000 steps, 200,000 updates: bits per number.
PUBLISHED = {"linear": "3.77 bits", "improved_cosine": "3.68 bits"}
SCHEDULES = {
    "cosine": "cosine",
    "improved_cosine": "improved_cosine",
    "linear": "linear",
    "simple_linear": "simple_linear",
    "sigmoid": "sigmoid@-3,3,0.9",
}


def cells():
  table = {}
  for name, schedule in SCHEDULES.items():
    table[name] = recipe.pix2seq_d_cell(
        schedule, {"model.schedule": schedule})
  return table


def get_sweep(size):
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Pix2Seq-D: noise schedules (PQ on held-out images; published for "
            "images, by another measure)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(),
      scores={
          "quality": recipe.pix2seq_d_score(size, "PQ", "PQ", PUBLISHED),
          "bits": recipe.Score(
              "% of right bits", 1, "val/bit_accuracy", scale=100)},
      comparisons=[
          compare("a cosine is better than the linear schedule", "quality",
                  "improved_cosine", ">", "linear", "3.68 : 3.77 bits"),
          compare("both cosines are about alike", "quality", "cosine", "~",
                  "improved_cosine", "ours")])
