"""Splitting of unused dictionary entries (Linde-Buzo-Gray), on and off.

Published by Mentzer et al. 2023 (finite scalar quantization, arXiv:2309.15505)
for UViM on depth.
"""

from configs.sweeps import recipe
from configs.sweeps.depth import score

USAGE = {"with": 99.0, "without": 0.78}
RMSE_2 = {"with": 0.468, "without": 0.490}


def get_sweep(size):
  return dict(
      title="Splitting of unused words, depth (FSQ paper, 2023; RMSE in "
            "metres, lower is better)",
      **recipe.base(size, "depth"),
      cells={"with": dict(title="with splitting"),
             "without": dict(title="without splitting",
                             stage1={"model.dict_splitting": False})},
      scores={
          "usage": dict(title="% of words in use", stage=1, scale=100,
                        metric="train/code/usage", published=USAGE),
          "perplexity": dict(title="perplexity of use", stage=1,
                             metric="train/code/perplexity", published={}),
          "stage1": score(size, 1, "UViM (stage I)", {}),
          "stage2": score(size, 2, "UViM (stage II)", RMSE_2)},
      checks=[
          ("usage: more words with splitting", ("usage", "with"), ">",
           ("usage", "without"), "99 : 0.78"),
          ("UViM is better with splitting", ("stage2", "with"), "<",
           ("stage2", "without"), "0.468 : 0.490")],
      curves={"train/code/usage": "share of words in use",
              "train/code/perplexity": "perplexity of use",
              "train/code/splits": "words replaced in a step",
              "age": "mean age of a word in steps (estimate)"})
