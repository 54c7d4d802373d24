"""Figure 6 of the paper: code length × dictionary size, panoptic."""

from configs.sweeps import recipe

# On rooms a code has as many words as the grid has tokens, 36, or fewer.
LENGTHS = {"full": (64, 256, 1024), "rooms": (4, 16, 36), "tiny": (4, 16)}
WORDS = {"full": (1024, 4096, 16384), "rooms": (64, 256, 1024),
         "tiny": (8, 16)}


def name_of(length, num_words):
  """The name of a cell."""
  return f"{length}x{num_words}"


def cells(size):
  """A cell for each size of the code."""
  table = {}
  for length in LENGTHS[size]:
    for num_words in WORDS[size]:
      table[name_of(length, num_words)] = recipe.Cell(
          f"{length} × {num_words}",
          stage1={"model.code_len": length, "model.dict_size": num_words})
  return table


def grid(size):
  return recipe.Grid(rows=LENGTHS[size], columns=WORDS[size],
                     down="words in the code",
                     across="words in the dictionary")


def get_sweep(size):
  metric1, metric2 = recipe.metrics_of(size, "coco_panoptic_holdout/PQ", "PQ")
  return recipe.Sweep(
      title="Figure 6: code length and dictionary size, panoptic segmentation "
            "(paper; PQ on held-out images; published as a drawing without "
            "figures)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(size),
      grid=grid(size),
      scores={
          "stage1": recipe.Score("stage I, PQ", 1, metric1),
          "stage2": recipe.Score("stage II, PQ", 2, metric2),
          "nll_unseen": recipe.Score(
              "LM, NLL of unseen codes, nats a word", 2, "val/loss")},
      trends=[
          recipe.Trend("stage I gains from longer codes and more words",
                       "stage1", "rises", "monotone"),
          recipe.Trend("stage II is best at neither end of the lengths",
                       "stage2", "peaks inside rows", "a sweet spot inside"),
          recipe.Trend("stage II is best at neither end of the dictionaries",
                       "stage2", "peaks inside columns",
                       "a sweet spot inside")])
