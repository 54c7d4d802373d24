"""Splitting of unused dictionary entries (Linde-Buzo-Gray), on and off.

Published by Mentzer et al. 2023 (finite scalar quantization, arXiv:2309.15505)
for UViM on depth.
"""

from configs.sweeps import depth, recipe

USAGE = {"with": 99.0, "without": 0.78}
RMSE_2 = {"with": 0.468, "without": 0.490}


def get_sweep(size):
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Splitting of unused words, depth (FSQ paper, 2023; RMSE in "
            "metres, lower is better)",
      recipe=recipe.recipe_of(size, "depth"),
      cells={
          "with": recipe.Cell("with splitting"),
          "without": recipe.Cell(
              "without splitting", stage1={"model.dict_splitting": False})},
      scores={
          "usage": recipe.Score(
              "% of words in use", 1, "train/code/usage", USAGE, scale=100),
          "perplexity": recipe.Score(
              "perplexity of use", 1, "train/code/perplexity"),
          "stage1": depth.score(size, 1, "UViM (stage I)", {}),
          "stage2": depth.score(size, 2, "UViM (stage II)", RMSE_2)},
      comparisons=[
          compare("usage: more words with splitting",
                  "usage", "with", ">", "without", "99 : 0.78"),
          compare("UViM is better with splitting",
                  "stage2", "with", "<", "without", "0.468 : 0.490")],
      curves={
          "train/code/usage": "share of words in use",
          "train/code/perplexity": "perplexity of use",
          "train/code/splits": "words replaced in a step",
          "age": "mean age of a word in steps (estimate)"})
