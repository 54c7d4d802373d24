"""Signs that did not hold, on hard scenes: several words for each patch.

As configs/sweeps/hard_latent.py, but the words lie on the grid of patches, and
a place has one, or 2 or 4 with residual quantization.
"""

from configs.sweeps import hard_latent, recipe

WORDS = (1, 2, 4)
# Of each codebook; that of `rooms`.
DICT_SIZE = {"full": 256, "rooms": 256, "tiny": 16}


def cells(size):
  """Row by row: words for each patch, with and without dropout."""
  table = {}
  for words in WORDS:
    for column, changes in hard_latent.DROPOUT.items():
      name = hard_latent.name_of(words, column)
      several = {}
      if words > 1:
        # The argument shares the bits of one word; here each has its own.
        several = {"model.num_quantizers": words,
                   "model.dict_size": DICT_SIZE[size]}
      table[name] = hard_latent.make_cell(
          name.replace("_", " "), {**several, **changes},
          words * hard_latent.NUM_PATCHES,
          argument="residual" if words > 1 else "")
  return table


def get_sweep(size):
  return recipe.Sweep(
      title="Hard scenes: 1, 2 and 4 words a patch, with and without dropout "
            "(ours; PQ on held-out images)",
      recipe=recipe.rooms_recipe(
          size, "panoptic", "hard", cost=recipe.HARD_COST),
      cells=cells(size),
      grid=recipe.Grid(rows=WORDS, columns=hard_latent.COLUMNS,
                       down="words a patch"),
      scores=hard_latent.scores(),
      comparisons=hard_latent.comparisons(WORDS),
      decisions=hard_latent.decisions(WORDS[-1] * hard_latent.NUM_PATCHES))
