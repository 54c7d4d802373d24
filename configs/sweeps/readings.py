"""Depth: one answer read in twelve ways, from the same two trainings.

What is read of a prior's words changes no training. So the table has two runs
of stage II, word by word and all at once, and twelve scores of each. Soft words
are of AiT (Ning et al. 2023), which takes them in both ways.
"""

from configs.sweeps import depth, recipe

PRIORS = {"ar": "word by word", "at_once": "all at once"}
# A model that draws all words at once reads none: it has no soft inputs.
SOFT = {"ar": {"soft_words": 1.0, "soft_inputs": 1.0},
        "at_once": {"soft_words": 1.0}}
MEAN_BIN = {"bins": "mean"}
# f reads soft words on the way of each sample, if they are soft.
MEAN_OF_8 = {"bins": "mean", "temperature": 1.0, "num_samples": 8,
             "reduce": "mean"}
READINGS = {"likeliest": {}, "mean_bin": MEAN_BIN, "mean_of_8": MEAN_OF_8}
COLUMNS = ["likeliest bin", "mean of bins", "mean of 8 samples"]


def stage2_of(prior):
  """What a prior changes in stage II."""
  return {"model.autoregressive": False} if prior == "at_once" else {}


def words_of(prior, softness, reading):
  """The options that say which vectors are soft."""
  if softness == "hard":
    return {}
  words = dict(SOFT[prior])
  if reading == "mean_of_8":
    # A sample's next word depends on the word before, not on a mean.
    words.pop("soft_inputs", None)
  return words


def cells():
  """Row by row: a prior with hard or soft words; its readings."""
  table = {}
  for prior in PRIORS:
    for softness in ("hard", "soft"):
      for reading, options in READINGS.items():
        sampling = {**words_of(prior, softness, reading), **options}
        name = f"{prior}_{softness}_{reading}"
        table[name] = recipe.Cell(
            name.replace("_", " "), stage2=stage2_of(prior), sampling=sampling)
  return table


def comparisons():
  def compare(effect, left, right):
    return recipe.compare_cells(effect, "error", left, "<", right, "ours")

  found = []
  for prior, title in PRIORS.items():
    hard = f"{prior}_hard_likeliest"
    found += [
        compare(f"{title}: the mean of bins is better than the likeliest",
                f"{prior}_hard_mean_bin", hard),
        compare(f"{title}: soft words are better than hard ones",
                f"{prior}_soft_likeliest", hard),
        compare(f"{title}: both together are better than the mean of bins",
                f"{prior}_soft_mean_bin", f"{prior}_hard_mean_bin")]
  found.append(compare(
      "word by word: 8 samples are better than one answer with soft words",
      "ar_hard_mean_of_8", "ar_soft_mean_bin"))
  return found


def get_sweep(size):
  evaluator = "nyu_depth" if size == "full" else "uvim"
  rows = []
  for title in PRIORS.values():
    rows += [f"{title}, hard words", f"{title}, soft words"]
  return recipe.Sweep(
      title="Depth: readings of an answer (RMSE in metres, lower is better; "
            "milliseconds per image)",
      recipe=recipe.recipe_of(size, "depth"),
      cells=cells(),
      scores={
          "error": recipe.Score(
              "UViM, RMSE in metres", "sampling", "RMSE",
              {"ar_hard_likeliest": depth.RMSE_2["default"],
               "at_once_hard_likeliest": depth.RMSE_2["no_autoregression"]}),
          "time": recipe.Score(
              "milliseconds per image", "sampling", "ms_per_image")},
      comparisons=comparisons(),
      grid=recipe.Grid(rows=rows, columns=COLUMNS, down="words",
                       across="reading"),
      evaluator=evaluator,
      measure="sampling")
