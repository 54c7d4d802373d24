"""Word by word, all at once, or in a few passes: PQ and milliseconds.

The paper has the two ends: its language model draws word by word, and its
ablation draws all words in one pass. Between them lies the masked prior of
MaskGIT (Chang et al. 2022), with which nobody has published guiding codes.
"""

from configs.sweeps import recipe

# On rooms a code has 36 words. Beyond as many passes as words nothing changes.
PASSES = (1, 2, 4, 8, 12, 36)
# The words of a code lie on a square grid with so many places on a side.
GRID_SIDES = {"full": 16, "rooms": 6, "tiny": 6}
MASKED = {"model.style": "masked"}
PUBLISHED = {"ar": 43.7, "at_once": 33.3}


def told_places(size):
  """Overrides of stage II: the decoder gets the image's token at each place.

  Without it a masked model has hardly begun to read the image when the other
  priors have learned to. It learns first to guess words from those beside them.

  Args:
    size: of the sweep.
  """
  side = GRID_SIDES[size]
  return {"model.code_grid": (side, side)}


def masked(size):
  """Overrides of stage II: a masked prior that is told the places.

  Args:
    size: of the sweep.
  """
  return MASKED | told_places(size)


def cells(size):
  """A cell for each way to draw a code; the masked ones share two trainings.

  Args:
    size: of the sweep.
  """
  table = {
      "ar": recipe.Cell("word by word"),
      "ar_placed": recipe.Cell(
          "word by word, told the places", stage2=told_places(size)),
      "at_once": recipe.Cell(
          "all at once", stage2={"model.autoregressive": False})}
  for passes in PASSES:
    table[f"masked_{passes}"] = recipe.Cell(
        _title("masked", passes), stage2=masked(size),
        sampling=sampling_of(passes))
  for passes in (1, 8):
    table[f"unplaced_{passes}"] = recipe.Cell(
        _title("masked, not told the places", passes), stage2=MASKED,
        sampling=sampling_of(passes))
  return table


def sampling_of(passes):
  """Options of a masked prior. Without chance no figure depends on a seed."""
  return {"num_iter": passes, "choice_temperature": 0.0}


def _title(name, passes):
  unit = "pass" if passes == 1 else "passes"
  return f"{name}, {passes} {unit}"


def comparisons():
  compare = recipe.compare_cells
  ours = "ours"
  return [
      compare("autoregression: better than all at once", "quality", "ar", ">",
              "at_once", "43.7 : 33.3"),
      compare("8 passes are better than one", "quality", "masked_8", ">",
              "masked_1", ours),
      compare("a masked model must be told the places", "quality", "masked_8",
              ">", "unplaced_8", ours),
      compare("8 passes are about as good as word by word", "quality",
              "masked_8", "~", "ar", ours),
      compare("8 passes are faster than word by word", "time", "masked_8", "<",
              "ar", ours)]


def get_sweep(size):
  return recipe.Sweep(
      title="Priors: passes for a code (paper, Table 2, for the first two; "
            "PQ on held-out images, milliseconds per image)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(size),
      scores={
          "quality": recipe.Score("UViM, PQ", "sampling", "PQ", PUBLISHED),
          "time": recipe.Score(
              "milliseconds per image", "sampling", "ms_per_image")},
      comparisons=comparisons(),
      evaluator="panoptic_holdout" if size == "full" else "uvim",
      measure="sampling")
