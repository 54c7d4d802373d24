"""Depth: the oracle's code, UViM, and the ablations the paper's text gives."""

from configs.sweeps import recipe

# Stage I: the released model. Stage II: Table 1 and section 4.
RMSE_1 = {"default": 0.155}
RMSE_2 = {"default": 0.467, "no_autoregression": 0.55,
          "no_image": "within 0.005 of the default",
          "no_dropout": "no difference"}


def score(size, stage, title, published):
  """The row of a stage."""
  metrics = recipe.metrics_of(size, "nyu_depth/RMSE", "RMSE")
  return recipe.Score(f"{title}, RMSE in metres", stage, metrics[stage - 1],
                      published)


def cells(size):
  table = {"default": recipe.Cell("default")}
  no_image = {}
  if size != "full":
    # f without an image has no patch embedding, so the language model of
    # no_image cannot start as f. It is compared with another such one.
    no_image = recipe.from_scratch(size)
    table["scratch"] = recipe.Cell(
        "from scratch", stage2=recipe.from_scratch(size))
  table["no_oracle"] = recipe.no_oracle()
  table["no_autoregression"] = recipe.Cell(
      "no autoregression", stage2={"model.autoregressive": False})
  table["no_image"] = recipe.Cell(
      "no image", stage1={"model.with_decoder_ctx": False}, stage2=no_image)
  table["no_dropout"] = recipe.Cell(
      "no dropout", stage1={"model.code_dropout": "none"})
  return table


def comparisons(size):
  stage1 = recipe.Entry("stage1", "default")
  stage2 = recipe.Entry("stage2", "default")
  no_code = recipe.Entry("stage1", "no_oracle")
  at_once = recipe.Entry("stage2", "no_autoregression")
  no_image = recipe.Entry("stage2", "no_image")
  with_image = stage2 if size == "full" else recipe.Entry("stage2", "scratch")
  return [
      recipe.Comparison("the oracle's code is far better than UViM's",
                        stage1, "<", stage2, "0.155 : 0.467"),
      recipe.Comparison("UViM is better than no code",
                        stage2, "<", no_code, "–"),
      recipe.Comparison("autoregression: error rises without",
                        stage2, "<", at_once, "0.47 : 0.55"),
      recipe.Comparison("image in f: about unchanged without",
                        no_image, "~", with_image, "within 0.005")]


def get_sweep(size):
  return recipe.Sweep(
      title="Depth: ablations (paper, Table 1 and section 4; RMSE in metres, "
            "lower is better)",
      recipe=recipe.recipe_of(size, "depth"),
      cells=cells(size),
      scores={
          "stage1": score(size, 1, "UViM (stage I)", RMSE_1),
          "stage2": score(size, 2, "UViM (stage II)", RMSE_2)},
      comparisons=comparisons(size))
