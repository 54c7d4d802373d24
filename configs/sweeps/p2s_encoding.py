"""Codings of Pix2Seq-D: which bits stand for a class or an id.

Chen et al. 2022 (Bit Diffusion, arXiv:2208.04202) compare them for the values
of pixels, by the Fréchet distance of generated images. Here masks are
generated, and PQ takes its place: a mask has a truth to be compared with. A
class is no amount, and random ids are none either. So a coding should matter
less here.
"""

from configs.sweeps import recipe

# ImageNet 64 × 64.
PUBLISHED = {"binary": "FID 4.84", "gray": "FID 5.14", "random": "FID 8.76"}
TITLES = {"binary": "binary (UINT8)", "gray": "Gray code",
          "random": "random (UINT8, rand)"}


def cells():
  table = {}
  for coding, title in TITLES.items():
    table[coding] = recipe.pix2seq_d_cell(title, {"model.coding": coding})
  return table


def get_sweep(size):
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Pix2Seq-D: codings of integers (PQ on held-out images; published "
            "for images, by another measure)",
      recipe=recipe.pix2seq_d(size),
      cells=cells(),
      scores={
          "quality": recipe.pix2seq_d_score(size, "PQ", "PQ", PUBLISHED),
          # It does not depend on the coding by itself, as a share of right bits
          # would.
          "cost": recipe.Score(
              "bits per pixel, at most", 1, "bound/bits_per_pixel")},
      comparisons=[
          compare("Gray code is about as good as binary", "quality", "gray",
                  "~", "binary", "FID 5.14 : 4.84"),
          compare("a random code is about as good as binary", "quality",
                  "random", "~", "binary", "FID 8.76 : 4.84, far worse")])
