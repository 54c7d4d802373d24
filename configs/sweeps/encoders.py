"""An image encoder for stage I, stage II, both or neither.

It is a masked autoencoder of the same images: train it first, with
configs/mae_rooms.py. Nothing of this was published. `full` means the shipped
recipe of `rooms`, with all of its steps.
"""

from configs.sweeps import recipe

# Workdir of the autoencoder, as seen from where the sweep is started.
MODEL_INIT = "mae"

NO_ENCODER = {"model.image_encoder": {}, "model_init": {}}


def get_sweep(size):
  compare = recipe.compare_cells
  start = {"model.image_encoder": {}, "model_init": {"encoder": MODEL_INIT}}
  return recipe.Sweep(
      title="A frozen image encoder, learned from the same images (ours; PQ)",
      recipe=recipe.rooms_recipe(
          size, "panoptic", f"encoder={MODEL_INIT}"),
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
