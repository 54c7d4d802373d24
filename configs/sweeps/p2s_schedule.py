"""Noise schedules of Pix2Seq-D: how signal turns into noise.

Nichol & Dhariwal 2021 (arXiv:2102.09672) compare the linear schedule with
theirs on images: by the bits that a number costs, and by the Fréchet distance.
Here the same schedules make masks. The bits are those of a pixel, its class and
id together. PQ takes the place of the distance: a mask has a truth to be
compared with.
"""

from configs.sweeps import recipe

# ImageNet 64 × 64, 4000 steps, 200,000 updates, the simple loss.
PUBLISHED_QUALITY = {"linear": "FID 31.3", "improved_cosine": "FID 27.0"}
PUBLISHED_COST = {"linear": 3.77, "improved_cosine": 3.68}
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
      title="Pix2Seq-D: noise schedules (PQ on held-out images, bits per "
            "pixel; published for images)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(),
      scores={
          "quality": recipe.pix2seq_d_score(
              size, "PQ", "PQ", PUBLISHED_QUALITY),
          "cost": recipe.Score(
              "bits per pixel, at most", 1, "bound/bits_per_pixel",
              PUBLISHED_COST, is_comparable=False)},
      comparisons=[
          compare("a cosine is better than the linear schedule", "quality",
                  "improved_cosine", ">", "linear", "FID 27.0 : 31.3"),
          compare("a cosine costs fewer bits than the linear schedule", "cost",
                  "improved_cosine", "<", "linear", "3.68 : 3.77"),
          compare("both cosines are about alike", "quality", "cosine", "~",
                  "improved_cosine", "ours")])
