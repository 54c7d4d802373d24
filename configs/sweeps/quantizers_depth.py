"""How vectors become words: the quantizers at about equal bits, depth.

See configs/sweeps/quantizers.py.
"""

from configs.sweeps import depth, quantizers, recipe

USAGE = {"vq": 99.0, "vq_unsplit": 0.78, "fsq": "99, quoted"}
RMSE_2 = {"vq": 0.468, "vq_unsplit": 0.490, "fsq": "0.473, quoted"}


def get_sweep(size):
  return recipe.Sweep(
      title="Quantizers at equal bits, depth (FSQ paper, 2023; RMSE in metres, "
            "lower is better)",
      recipe=recipe.recipe_of(size, "depth"),
      cells=quantizers.cells(),
      scores=quantizers.scores(
          depth.score(size, 1, "UViM (stage I)", {}),
          depth.score(size, 2, "UViM (stage II)", RMSE_2),
          USAGE),
      comparisons=quantizers.comparisons("<"),
      curves=quantizers.CURVES)
