"""An image encoder for stage I, stage II, both or neither.

It is a masked autoencoder of the same images: train it first, with
configs/mae_rooms.py. Nothing of this was published. `full` means the shipped
recipe of `rooms`, with all of its steps.
"""

from configs.sweeps import recipe

# Workdir of the autoencoder, as seen from where the sweep is started.
MODEL_INIT = "mae"
# Minutes of the shipped recipe for each minute of the shorter one.
LONGER = 2

NO_ENCODER = {"model.image_encoder": {}, "model_init": {}}


def encoders_recipe(size):
  """The pair of `rooms`, both with the encoder."""
  cost1, cost2, unit = recipe.COSTS["tiny" if size == "tiny" else "rooms"]
  overrides1 = {}
  overrides2 = {}
  if size == "rooms":
    overrides1 = recipe.rooms_overrides(recipe.ROOMS_STEPS[0])
    overrides2 = recipe.rooms_overrides(recipe.ROOMS_STEPS[1])
  elif size == "full":
    cost1 = cost1 * LONGER
    cost2 = cost2 * LONGER
  argument = f"encoder={MODEL_INIT}"
  # There is no such recipe of COCO.
  config_size = "tiny" if size == "tiny" else "rooms"
  return recipe.Recipe(
      recipe.Stage(
          recipe.config_of("vqvae", config_size, "panoptic", argument),
          overrides1, cost1),
      recipe.Stage(
          recipe.config_of("lm", config_size, "panoptic", argument),
          overrides2, cost2),
      unit)


def get_sweep(size):
  compare = recipe.compare_cells
  start = {"model.image_encoder": {}, "model_init": {"encoder": MODEL_INIT}}
  return recipe.Sweep(
      title="A frozen image encoder, learned from the same images (ours; PQ)",
      recipe=encoders_recipe(size),
      cells={
          "none": recipe.Cell(
              "none, from scratch", stage1=NO_ENCODER, stage2=NO_ENCODER),
          "start": recipe.Cell(
              "stage II starts from it", stage1=NO_ENCODER, stage2=start),
          "stage1": recipe.Cell("stage I", stage2=NO_ENCODER),
          "stage2": recipe.Cell("stage II", stage1=NO_ENCODER),
          "both": recipe.Cell("both")},
      scores={
          "stage1": recipe.Score("oracle's code, PQ", 1, "oracle_code/PQ"),
          "stage2": recipe.Score("UViM, PQ", 2, "uvim/PQ")},
      comparisons=[
          compare("features help stage I", "stage1", "stage1", ">", "none",
                  "ours"),
          compare("features help stage II", "stage2", "stage2", ">", "none",
                  "ours"),
          compare("features in both are best", "stage2", "both", ">", "stage2",
                  "ours")])
