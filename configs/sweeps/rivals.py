"""Every generalist side by side: UViM's variants, Pix2Seq-D, no code.

All read the same images and are scored on the same images. The budget is time:
a base model without a code is also trained for as long as both stages of UViM
take together. Pix2Seq-D has its shipped recipe, which takes longer; the row of
minutes says by how much. configs/sweeps/rivals_depth.py does the same for
depth, which Pix2Seq-D does not predict.
"""

from configs.sweeps import priors, recipe

# On the validation images of COCO, of 512 pixels a side unless it says more.
# Whoever quotes a figure without its source calls it unverified.
PQ = {
    "vq_ar": "45.8 (stage II at 1280; 43.1 at 512)",
    "fsq_ar": "43.2, unverified",
    "givt": "40.2, without image in oracle and f",
    "p2s_5": 47.5, "p2s_20": 50.3}
PQ_THINGS = {"p2s_5": 52.2, "p2s_20": 55.3}
PQ_STUFF = {"p2s_5": 40.3, "p2s_20": 42.9}
# Millions of parameters.
PARAMS = {"vq_ar": 939, "p2s_5": 94.5, "p2s_20": 94.5}

# Passes of a masked prior for a code.
PASSES = 8
MASKED = priors.sampling_of(PASSES)
# The share of stage I's time that a base model without an oracle takes.
BASE_COST = 0.7
# The length of stage I's shipped run, in the field that sets it.
STAGE1_LENGTH = {"full": ("num_epochs", 1000),
                 "rooms": ("total_steps", recipe.ROOMS_STEPS[0]),
                 "tiny": ("total_steps", 4)}
PIX2SEQ_D_EVALUATORS = {"full": "panoptic_val", "rooms": "steps_20",
                        "tiny": "steps_2"}


def base_cells(size, task, evaluator):
  """The base model alone: as long as stage I, and as long as both stages.

  Args:
    size: of the sweep.
    task: 'panoptic' or 'depth'.
    evaluator: of stage I, on whose images it is scored.
  """
  both = recipe.recipe_of(size, task)
  alone = recipe.Recipe(both.stage1, None, both.unit)
  # Of a base model's run: how much longer both stages take.
  factor = 1 + both.stage2.cost / both.stage1.cost
  factor = factor / BASE_COST
  field, length = STAGE1_LENGTH[size]
  longer = {field: round(length * factor)}
  if size == "rooms":
    longer["log_eval_steps"] = longer[field]
  no_code = {"model.oracle_depth": 0}
  return {
      "base": recipe.Cell(
          "no code", stage1=no_code, stage2=None, cost=(BASE_COST, 0),
          recipe=alone, evaluator=evaluator),
      "base_longer": recipe.Cell(
          "no code, UViM's time", stage1={**no_code, **longer}, stage2=None,
          cost=(BASE_COST * factor, 0), recipe=alone, evaluator=evaluator)}


def uvim_cells(size):
  """Each code with each prior that can predict it.

  Args:
    size: of the sweep.
  """
  return {
      "vq_ar": recipe.Cell("UViM: VQ, word by word"),
      "vq_masked": recipe.Cell(
          f"UViM: VQ, masked, {PASSES} passes", stage2=priors.masked(size),
          sampling=MASKED),
      "fsq_ar": recipe.Cell("UViM: FSQ, word by word", argument="fsq"),
      "fsq_masked": recipe.Cell(
          f"UViM: FSQ, masked, {PASSES} passes", stage2=priors.masked(size),
          argument="fsq", sampling=MASKED),
      "givt": recipe.Cell("GIVT", argument="givt")}


def pix2seq_d_cells(size):
  """One training, sampled in two numbers of steps."""
  table = {}
  for steps in (5, 20):
    # As in configs/sweeps/p2s_steps.py, which can share the training.
    sampling = {"num_steps": steps, "time_difference": 1.0}
    table[f"p2s_{steps}"] = recipe.Cell(
        f"Pix2Seq-D, {steps} steps", stage2=None, cost=(1, 0),
        sampling=sampling, recipe=recipe.pix2seq_d(size),
        evaluator=PIX2SEQ_D_EVALUATORS[size])
  return table


def cost_scores(params):
  """Rows that say what a system costs.

  Args:
    params: cell → published millions of parameters.
  """
  return {
      "params": recipe.Score(
          "millions of parameters", "sampling", "num_params", params,
          scale=1e-6),
      "minutes": recipe.Score(
          "minutes of training, scoring included", "training", "minutes"),
      "rate": recipe.Score(
          "images per second", "sampling", "images_per_second"),
      "time": recipe.Score(
          "milliseconds per image", "sampling", "ms_per_image")}


def comparisons():
  def compare(effect, left, sign, right, published):
    return recipe.compare_cells(effect, "quality", left, sign, right, published)

  ours = "ours"
  return [
      compare("a code is better than none", "vq_ar", ">", "base",
              "43.7 : 19.6 on held-out images"),
      compare("a code is better than more training", "vq_ar", ">",
              "base_longer", ours),
      compare("FSQ is level with VQ", "fsq_ar", "~", "vq_ar",
              "level, unverified"),
      compare(f"VQ: {PASSES} passes are about as good as word by word",
              "vq_masked", "~", "vq_ar", ours),
      compare(f"FSQ: {PASSES} passes are about as good as word by word",
              "fsq_masked", "~", "fsq_ar", ours),
      compare("real numbers are better than words", "givt", ">", "vq_ar",
              "40.2 : 39.0, both without image, the second unverified"),
      compare("Pix2Seq-D is better than UViM", "p2s_20", ">", "vq_ar",
              "50.3 : 45.8"),
      compare("Pix2Seq-D: 20 steps are better than 5", "p2s_20", ">", "p2s_5",
              "50.3 : 47.5")]


def get_sweep(size):
  oracle_code = "panoptic_val" if size == "full" else "oracle_code"
  return recipe.Sweep(
      title="Rivals: every generalist on the same images (panoptic "
            "segmentation; published figures are of COCO)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells={
          **base_cells(size, "panoptic", oracle_code),
          **uvim_cells(size),
          **pix2seq_d_cells(size)},
      scores={
          "quality": recipe.Score("PQ", "sampling", "PQ", PQ),
          "things": recipe.Score(
              "PQ of things", "sampling", "PQ_things", PQ_THINGS),
          "stuff": recipe.Score(
              "PQ of stuff", "sampling", "PQ_stuff", PQ_STUFF),
          **cost_scores(PARAMS)},
      comparisons=comparisons(),
      trade_off=recipe.TradeOff(cost="time", quality="quality"),
      evaluator="panoptic_val" if size == "full" else "uvim",
      measure="sampling")
