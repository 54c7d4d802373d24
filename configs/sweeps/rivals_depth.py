"""Every generalist side by side, for depth. See configs/sweeps/rivals.py."""

from configs.sweeps import recipe, rivals

# On NYU's test images.
RMSE = {"vq_ar": 0.467, "fsq_ar": "0.473, unverified",
        "givt": "0.474, without image in oracle and f"}


def comparisons():
  def compare(effect, left, sign, right, published):
    return recipe.compare_cells(effect, "error", left, sign, right, published)

  return [
      compare("a code is better than none", "vq_ar", "<", "base", "–"),
      compare("a code is better than more training", "vq_ar", "<",
              "base_longer", "ours"),
      compare("FSQ is level with VQ", "fsq_ar", "~", "vq_ar",
              "0.473, unverified : 0.468"),
      compare("words are about as good as real numbers", "vq_ar", "~", "givt",
              "0.467 : 0.474, the second without image")]


def get_sweep(size):
  oracle_code = "nyu_depth" if size == "full" else "oracle_code"
  return recipe.Sweep(
      title="Rivals: every generalist on the same images (depth, RMSE in "
            "metres, lower is better; published figures are of NYU)",
      recipe=recipe.recipe_of(size, "depth"),
      cells={
          **rivals.base_cells(size, "depth", oracle_code),
          **rivals.uvim_cells(size)},
      scores={
          "error": recipe.Score("RMSE in metres", "sampling", "RMSE", RMSE),
          **rivals.cost_scores({})},
      comparisons=comparisons(),
      trade_off=recipe.TradeOff(cost="time", quality="error"),
      evaluator="nyu_depth" if size == "full" else "uvim",
      measure="sampling")
