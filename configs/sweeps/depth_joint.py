"""Depth: scores of several answers, which reward what fits together.

RMSE is least for the mean of all maps that fit an image, so it cannot tell
whether a code is of use. The energy score takes what a model says is possible,
its samples, and compares whole maps. The trainings are those of
configs/sweeps/depth.py; configs/sweeps/depth_joint_hard.py has hard scenes.
"""

from configs.sweeps import recipe, rivals

NUM_SAMPLES = 8
SCORED = {"type": "depth_samples"}
SAMPLES = {**SCORED, "pred": "samples", "num_samples": NUM_SAMPLES}
OF_PRIOR = {**SAMPLES, "temperature": 1.0}
AT_ONCE = {"model.autoregressive": False}
# Score → its row.
TITLES = {
    "energy": "energy score of whole maps, metres",
    "CRPS_pairs": "CRPS of differences between two pixels, metres",
    "CRPS": "CRPS of single pixels, metres",
    "RMSE_one": "RMSE of one answer",
    "RMSE_best": "RMSE of the best answer",
    "RMSE_mean": "RMSE of the mean of answers",
    "ordering": "% of pairs in the right order"}
PERCENT = 100
# Readings of a model without a code.
NO_CODE = ("no_code", "no_code_mean", "no_code_samples")


def cells(size, shipped, evaluator):
  """One answer of each model, and several.

  Args:
    size: of the sweep.
    shipped: the Recipe of both stages.
    evaluator: of stage I, on whose images it is scored.
  """
  alone = recipe.Recipe(shipped.stage1, None, shipped.unit)

  def no_code(title, sampling):
    return recipe.Cell(
        title, stage1={"model.oracle_depth": 0}, stage2=None,
        cost=(rivals.BASE_COST, 0), sampling=sampling, recipe=alone,
        evaluator=evaluator)

  samples = f"{NUM_SAMPLES} samples"
  return {
      "no_code": no_code("no code, likeliest bins", SCORED),
      "no_code_mean": no_code(
          "no code, mean of bins", {**SCORED, "bins": "mean"}),
      "no_code_samples": no_code(
          f"no code, {samples} pixel by pixel", SAMPLES),
      "ar": recipe.Cell("word by word", sampling=SCORED),
      "ar_samples": recipe.Cell(
          f"word by word, {samples}", sampling=OF_PRIOR),
      "at_once": recipe.Cell(
          "all at once", stage2=AT_ONCE, sampling=SCORED),
      "at_once_samples": recipe.Cell(
          f"all at once, {samples}", stage2=AT_ONCE, sampling=OF_PRIOR)}


def scores():
  table = {}
  for name, title in TITLES.items():
    scale = PERCENT if name == "ordering" else 1
    table[name] = recipe.Score(title, "sampling", name, scale=scale)
  return table


def comparisons():
  compare = recipe.compare_cells
  ours = "ours"
  found = []
  for name in NO_CODE:
    found.append(compare(
        f"energy: UViM's samples are better than {name.replace('_', ' ')}",
        "energy", "ar_samples", "<", name, ours))
  found.append(compare(
      "pairs: UViM's samples are better than pixels drawn one by one",
      "CRPS_pairs", "ar_samples", "<", "no_code_samples", ours))
  for name in ("energy", "CRPS_pairs"):
    found.append(compare(
        f"{name}: word by word is better than all at once", name, "ar_samples",
        "<", "at_once_samples", ours))
  found += [
      compare("best of several answers: UViM is better than the mean of bins",
              "RMSE_best", "ar_samples", "<", "no_code_mean", ours),
      compare("order of two pixels: UViM's one answer is better than no code",
              "ordering", "ar", ">", "no_code", ours)]
  return found


DECISIONS = [
    recipe.Decision(
        sign="Depth: UViM is better than no code (paper: 0.467 : –; on rooms "
             "its RMSE is worse).",
        guess="RMSE rewards the mean of all maps that fit the image, and UViM "
              "gives one of them. A model without a code knows pixels one by "
              "one, and cannot say which depths go together.",
        confirmed_if=f"the energy score of UViM's {NUM_SAMPLES} samples is "
                     "lower than that of each reading without a code, and "
                     "their CRPS of pairs is lower than that of pixels drawn "
                     "one by one, in all three seeds.",
        refuted_if="the mean of the bins without a code has a lower energy "
                   "score than UViM's samples in all three seeds."),
    recipe.Decision(
        sign="Depth: autoregression helps (paper: 0.47 : 0.55; on rooms RMSE "
             "is better without).",
        guess="words that are drawn at once do not fit together, and RMSE does "
              "not show it.",
        confirmed_if=f"with {NUM_SAMPLES} samples, the energy score and the "
                     "CRPS of pairs are lower word by word than all at once in "
                     "all three seeds.",
        refuted_if="both are lower all at once in all three seeds.")]


def make_sweep(size, shipped, where):
  """The sweep of a recipe.

  Args:
    size: of the sweep.
    shipped: the Recipe of both stages.
    where: the end of the title.
  """
  # The evaluators of NYU have another name than those of rooms.
  is_nyu = "nyu" in shipped.stage1.config
  return recipe.Sweep(
      title=f"Depth: are answers right, and together? (ours; {where})",
      recipe=shipped,
      cells=cells(size, shipped, "nyu_depth" if is_nyu else "oracle_code"),
      scores=scores(),
      comparisons=comparisons(),
      decisions=DECISIONS,
      evaluator="nyu_depth" if is_nyu else "uvim",
      measure="sampling")


def get_sweep(size):
  return make_sweep(size, recipe.recipe_of(size, "depth"), "held-out images")
