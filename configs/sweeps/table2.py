"""Table 2 of the paper: what each component of UViM is good for."""

from configs.sweeps import recipe

PQ_1 = {"default": 75.7, "scratch": 75.7, "no_dropout": 85.8, "no_oracle": 19.6,
        "no_oracle_48": 25.5, "no_autoregression": 75.7, "no_image": 66.1}
PQ_2 = {"default": 43.7, "scratch": 41.4, "no_dropout": 42.2,
        "no_oracle": "N/A", "no_oracle_48": "N/A", "no_autoregression": 33.3,
        "no_image": 39.1}
NLL = {"default": 1.3, "no_dropout": 4.2}  # Section 4.

# The base model of no_oracle_48. Paper: ViT-L with 48 layers. On rooms: three
# times f's layers, which is half as much again as oracle and f have together.
DEEP = {"model.width": 1024, "model.mlp_dim": 4096, "model.num_heads": 16,
        "model.base_model_depth": 48}
ROOMS_DEEP = {"model.base_model_depth": 12}


def cells(size):
  deep = ROOMS_DEEP
  scratch = recipe.from_scratch(size)
  scratch_cost = 1
  # f without an image has no patch embedding for stage II to start from.
  no_image = recipe.from_scratch(size)
  if size == "full":
    deep = DEEP
    scratch["num_epochs"] = 500
    scratch_cost = 2.5
    no_image = {}
  return {
      "default": recipe.Cell("default"),
      "scratch": recipe.Cell(
          "from scratch", stage2=scratch, cost=(1, scratch_cost)),
      "no_dropout": recipe.Cell(
          "no dropout", stage1={"model.code_dropout": "none"}),
      "no_oracle": recipe.no_oracle(),
      "no_oracle_48": recipe.Cell(
          f"no oracle, {deep['model.base_model_depth']} layers",
          stage1={"model.oracle_depth": 0, **deep}, stage2=None, cost=(2, 0)),
      "no_autoregression": recipe.Cell(
          "no autoregression", stage2={"model.autoregressive": False}),
      "no_image": recipe.Cell(
          "no image", stage1={"model.with_decoder_ctx": False},
          stage2=no_image),
  }


def get_sweep(size):
  # The language model of no_image is not pretrained on rooms, so it is compared
  # with another such one.
  with_image = "default" if size == "full" else "scratch"
  metric1, metric2 = recipe.metrics_of(size, "coco_panoptic_holdout/PQ", "PQ")
  compare = recipe.compare_cells
  return recipe.Sweep(
      title="Table 2: ablations, panoptic segmentation (paper; PQ on held-out "
            "images)",
      recipe=recipe.recipe_of(size, "panoptic"),
      cells=cells(size),
      scores={
          "stage1": recipe.Score("UViM (stage I), PQ", 1, metric1, PQ_1),
          "stage2": recipe.Score("UViM (stage II), PQ", 2, metric2, PQ_2),
          "nll": recipe.Score(
              "LM, NLL in training, nats a word", 2, "train/loss", NLL),
          "nll_unseen": recipe.Score(
              "LM, NLL of unseen codes", 2, "val/loss")},
      comparisons=[
          compare("the oracle's code against no code",
                  "stage1", "default", ">", "no_oracle", "75.7 : 19.6"),
          compare("as many layers do not replace a code",
                  "stage1", "default", ">", "no_oracle_48", "75.7 : 25.5"),
          compare("dropout: stage I falls",
                  "stage1", "default", "<", "no_dropout", "75.7 : 85.8"),
          compare("dropout: the LM's NLL falls",
                  "nll", "default", "<", "no_dropout", "1.3 : 4.2"),
          compare("dropout: UViM rises or holds",
                  "stage2", "default", ">", "no_dropout", "43.7 : 42.2"),
          compare("autoregression: UViM drops without",
                  "stage2", "default", ">", "no_autoregression", "43.7 : 33.3"),
          compare("image in f: stage I drops without",
                  "stage1", "default", ">", "no_image", "75.7 : 66.1"),
          compare("image in f: UViM drops without",
                  "stage2", with_image, ">", "no_image", "43.7 : 39.1"),
          compare("pretraining: UViM drops without",
                  "stage2", "default", ">", "scratch", "43.7 : 41.4")])
