"""Depth: the oracle's code, UViM, and the ablations the paper's text gives."""

from configs.sweeps import recipe

# Stage I: the released model. Stage II: Table 1 and section 4.
RMSE_1 = {"default": 0.155}
RMSE_2 = {"default": 0.467, "no_autoregression": 0.55,
          "no_image": "within 0.005 of the default",
          "no_dropout": "no difference"}


def score(size, stage, title, published):
  metrics = recipe.metric(size, "nyu_depth/RMSE", "RMSE")
  return dict(title=f"{title}, RMSE in metres", stage=stage,
              metric=metrics[stage - 1], published=published)


def get_sweep(size):
  # What no_image is compared with: on rooms its LM cannot start as f, which
  # has no patch embedding then.
  like = "default" if size == "full" else "scratch"
  scratch = {} if size == "full" else {"scratch": dict(
      title="from scratch", stage2=recipe.scratch(size))}
  return dict(
      title="Depth: ablations (paper, Table 1 and section 4; RMSE in metres, "
            "lower is better)",
      **recipe.base(size, "depth"),
      cells={
          "default": dict(title="default"), **scratch,
          "no_oracle": dict(title="no oracle", stage2=None, cost=(0.7, 0),
                            stage1={"model.oracle_depth": 0}),
          "no_autoregression": dict(
              title="no autoregression",
              stage2={"model.autoregressive": False}),
          "no_image": dict(
              title="no image", stage1={"model.with_decoder_ctx": False},
              stage2={} if size == "full" else recipe.scratch(size)),
          "no_dropout": dict(title="no dropout",
                             stage1={"model.code_dropout": "none"})},
      scores={"stage1": score(size, 1, "UViM (stage I)", RMSE_1),
              "stage2": score(size, 2, "UViM (stage II)", RMSE_2)},
      checks=[
          ("the oracle's code is far better than UViM's",
           ("stage1", "default"), "<", ("stage2", "default"), "0.155 : 0.467"),
          ("UViM is better than no code", ("stage2", "default"), "<",
           ("stage1", "no_oracle"), "–"),
          ("autoregression: error rises without", ("stage2", "default"), "<",
           ("stage2", "no_autoregression"), "0.47 : 0.55"),
          ("image in f: about unchanged without", ("stage2", "no_image"), "~",
           ("stage2", like), "within 0.005")])
