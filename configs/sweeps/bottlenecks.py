"""Does a code want a grid? Three bottlenecks at three lengths, panoptic.

With `resize` the words lie on a grid, with `linear` and `latent` they do not.
TiTok (Yu et al. 2024) has latent tokens for images; nothing was published for
guiding codes.
"""

from configs.sweeps import recipe

BOTTLENECKS = ("resize", "linear", "latent")
# Square numbers: a grid needs them. On rooms the image has 36 patches.
LENGTHS = {"full": (64, 256, 1024), "rooms": (4, 16, 36), "tiny": (4, 16)}
PUBLISHED = "ours"


def name_of(bottleneck, length):
  """The name of a cell."""
  return f"{bottleneck}_{length}"


def cells(size):
  """A cell for each length and bottleneck."""
  table = {}
  for length in LENGTHS[size]:
    for bottleneck in BOTTLENECKS:
      table[name_of(bottleneck, length)] = recipe.Cell(
          f"{bottleneck}, {length} words",
          stage1={"model.bottleneck": bottleneck, "model.code_len": length})
  return table


def comparisons(size):
  """Whether codes need their grid, at the shortest and the longest length."""
  found = []
  lengths = LENGTHS[size]
  shortest = lengths[0]
  longest = lengths[-1]
  found.append(recipe.compare_cells(
      f"{shortest} words without a grid say more", "stage1",
      name_of("latent", shortest), ">", name_of("resize", shortest), PUBLISHED))
  for length in (shortest, longest):
    found.append(recipe.compare_cells(
        f"{length} words on a grid are easier to predict", "nll_unseen",
        name_of("resize", length), "<", name_of("latent", length), PUBLISHED))
    found.append(recipe.compare_cells(
        f"latent tokens are better than linear maps, {length} words", "stage2",
        name_of("latent", length), ">", name_of("linear", length), PUBLISHED))
  return found


def get_sweep(size):
  metric1, metric2 = recipe.metrics_of(size, "coco_panoptic_holdout/PQ", "PQ")
  return recipe.Sweep(
      title="Bottlenecks: words on a grid, by learned maps, by latent tokens "
            "(ours; PQ on held-out images)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(size),
      grid=recipe.Grid(rows=LENGTHS[size], columns=BOTTLENECKS,
                       down="words in the code", across="bottleneck"),
      scores={
          "stage1": recipe.Score("stage I, PQ", 1, metric1),
          "stage2": recipe.Score("stage II, PQ", 2, metric2),
          "nll_unseen": recipe.Score(
              "LM, NLL of unseen codes, nats a word", 2, "val/loss")},
      comparisons=comparisons(size))
