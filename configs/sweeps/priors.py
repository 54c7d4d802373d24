"""Word by word, all at once, or in a few passes: PQ and milliseconds.

The paper has the two ends: its language model draws word by word, and its
ablation draws all words in one pass. Between them lies the masked prior of
MaskGIT (Chang et al. 2022), with which nobody has published guiding codes.
"""

from configs.sweeps import recipe

# On rooms a code has 36 words. Beyond as many passes as words nothing changes.
PASSES = (1, 2, 4, 8, 12, 36)
MASKED = {"model.style": "masked"}
PUBLISHED = {"ar": 43.7, "at_once": 33.3}


def cells():
  """A cell for each way to draw a code; the masked ones share their runs."""
  table = {
      "ar": recipe.Cell("word by word"),
      "at_once": recipe.Cell(
          "all at once", stage2={"model.autoregressive": False})}
  for passes in PASSES:
    # Without chance, as at temperature 0: no figure depends on a seed.
    sampling = {"num_iter": passes, "choice_temperature": 0.0}
    title = "masked, 1 pass" if passes == 1 else f"masked, {passes} passes"
    table[f"masked_{passes}"] = recipe.Cell(
        title, stage2=MASKED, sampling=sampling)
  return table


def comparisons():
  compare = recipe.compare_cells
  ours = "ours"
  return [
      compare("autoregression: better than all at once", "quality", "ar", ">",
              "at_once", "43.7 : 33.3"),
      compare("8 passes are better than one", "quality", "masked_8", ">",
              "masked_1", ours),
      compare("8 passes are about as good as word by word", "quality",
              "masked_8", "~", "ar", ours),
      compare("8 passes are faster than word by word", "time", "masked_8", "<",
              "ar", ours)]


def get_sweep(size):
  return recipe.Sweep(
      title="Priors: passes for a code (paper, Table 2, for the first two; "
            "PQ on held-out images, milliseconds per image)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(),
      scores={
          "quality": recipe.Score("UViM, PQ", "sampling", "PQ", PUBLISHED),
          "time": recipe.Score(
              "milliseconds per image", "sampling", "ms_per_image")},
      comparisons=comparisons(),
      evaluator="panoptic_holdout" if size == "full" else "uvim",
      measure="sampling")
