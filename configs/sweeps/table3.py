"""Table 3 of the paper: pretrained weights and the size of stage II."""

from configs.sweeps import recipe

BASE = {"model.num_layers": 12, "model.num_heads": 12, "model.mlp_dim": 3072,
        "model.emb_dim": 768}
# On rooms the encoder must be as deep as f, from which it starts: "base" has
# half of the decoder.
ROOMS_BASE = {"model.decoder_layers": 2}
VIT_B = {"model_init.encoder": "howto-i21k-B/16"}
LONGER = {"num_epochs": 500}  # Section 4: from scratch it converges slower.
PUBLISHED = {"scratch_base": 41.0, "scratch_large": 41.4,
             "pretrained_base": 41.9, "pretrained_large": 43.7}


def cells(size):
  scratch = recipe.from_scratch(size)
  if size == "full":
    base = BASE
    pretrained = VIT_B
    scratch |= LONGER
    scratch_cost = 2.5
    base_cost = 0.4
  else:
    base = ROOMS_BASE
    pretrained = {}
    scratch_cost = 1
    base_cost = 0.8
  return {
      "scratch_base": recipe.Cell(
          "from scratch, base", stage2={**base, **scratch},
          cost=(1, scratch_cost * base_cost)),
      "scratch_large": recipe.Cell(
          "from scratch, large", stage2=scratch, cost=(1, scratch_cost)),
      "pretrained_base": recipe.Cell(
          "pretrained, base", stage2={**base, **pretrained},
          cost=(1, base_cost)),
      "pretrained_large": recipe.Cell("pretrained, large")}


def get_sweep(size):
  _, metric = recipe.metrics_of(size, "coco_panoptic_holdout/PQ", "PQ")
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Table 3: pretrained weights and size of stage II (paper; PQ on "
            "held-out images)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(size),
      grid=recipe.Grid(rows=["from scratch", "pretrained"],
                       columns=["base", "large"]),
      scores={"stage2": recipe.Score("UViM, PQ", 2, metric, PUBLISHED)},
      comparisons=[
          compare("pretraining, large", "stage2", "pretrained_large", ">",
                  "scratch_large", "43.7 : 41.4"),
          compare("pretraining, base", "stage2", "pretrained_base", ">",
                  "scratch_base", "41.9 : 41.0"),
          compare("size, pretrained", "stage2", "pretrained_large", ">",
                  "pretrained_base", "43.7 : 41.9"),
          compare("size, from scratch", "stage2", "scratch_large", ">",
                  "scratch_base", "41.4 : 41.0")])
