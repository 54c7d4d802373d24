"""Table 2 of the paper: what each component of UViM is good for."""

from configs.sweeps import recipe

PQ_1 = {"default": 75.7, "scratch": 75.7, "no_dropout": 85.8, "no_oracle": 19.6,
        "no_oracle_48": 25.5, "no_autoregression": 75.7, "no_image": 66.1}
PQ_2 = {"default": 43.7, "scratch": 41.4, "no_dropout": 42.2,
        "no_oracle": "N/A", "no_oracle_48": "N/A", "no_autoregression": 33.3,
        "no_image": 39.1}
NLL = {"default": 1.3, "no_dropout": 4.2}  # Section 4.


def cells(size):
  full = size == "full"
  # Paper: ViT-L with 48 layers. On rooms three times f's layers, which is half
  # as much again as oracle and f together have.
  deep = (dict(width=1024, mlp_dim=4096, num_heads=16, base_model_depth=48)
          if full else dict(base_model_depth=12))
  return {
      "default": dict(title="default"),
      "scratch": dict(
          title="from scratch", cost=(1, 2.5 if full else 1),
          stage2=recipe.scratch(size) | (dict(num_epochs=500) if full else {})),
      "no_dropout": dict(
          title="no dropout", stage1={"model.code_dropout": "none"}),
      "no_oracle": dict(
          title="no oracle", stage1={"model.oracle_depth": 0}, stage2=None,
          cost=(0.7, 0)),
      "no_oracle_48": dict(
          title=f"no oracle, {deep['base_model_depth']} layers",
          stage1={"model.oracle_depth": 0} | {
              f"model.{k}": v for k, v in deep.items()},
          stage2=None, cost=(2, 0)),
      "no_autoregression": dict(
          title="no autoregression", stage2={"model.autoregressive": False}),
      "no_image": dict(
          title="no image", stage1={"model.with_decoder_ctx": False},
          # f without an image has no patch embedding to start from.
          stage2={} if full else recipe.scratch(size)),
  }


def get_sweep(size):
  # What no_image is to be compared with: its LM is not pretrained on rooms.
  like = "default" if size == "full" else "scratch"
  metrics = recipe.metric(size, "coco_panoptic_holdout/PQ", "PQ")
  return dict(
      title="Table 2: ablations, panoptic segmentation (paper; PQ on held-out "
            "pictures)",
      **recipe.base(size, "panoptic"),
      cells=cells(size),
      scores={
          "stage1": dict(title="UViM (stage I), PQ", stage=1, metric=metrics[0],
                         published=PQ_1),
          "stage2": dict(title="UViM (stage II), PQ", stage=2,
                         metric=metrics[1], published=PQ_2),
          "nll": dict(title="LM, NLL in training, nats a word", stage=2,
                      metric="train/loss", published=NLL),
          "nll_unseen": dict(title="LM, NLL of unseen codes", stage=2,
                             metric="val/loss", published={})},
      checks=[
          ("the oracle's code against no code", ("stage1", "default"), ">",
           ("stage1", "no_oracle"), "75.7 : 19.6"),
          ("as many layers do not replace a code", ("stage1", "default"), ">",
           ("stage1", "no_oracle_48"), "75.7 : 25.5"),
          ("dropout: stage I falls", ("stage1", "default"), "<",
           ("stage1", "no_dropout"), "75.7 : 85.8"),
          ("dropout: the LM's NLL falls", ("nll", "default"), "<",
           ("nll", "no_dropout"), "1.3 : 4.2"),
          ("dropout: UViM rises or holds", ("stage2", "default"), ">",
           ("stage2", "no_dropout"), "43.7 : 42.2"),
          ("autoregression: UViM drops without", ("stage2", "default"), ">",
           ("stage2", "no_autoregression"), "43.7 : 33.3"),
          ("image in f: stage I drops without", ("stage1", "default"), ">",
           ("stage1", "no_image"), "75.7 : 66.1"),
          ("image in f: UViM drops without", ("stage2", like), ">",
           ("stage2", "no_image"), "43.7 : 39.1"),
          ("pretraining: UViM drops without", ("stage2", "default"), ">",
           ("stage2", "scratch"), "43.7 : 41.4")])
