"""Table 3 of the paper: pretrained weights and the size of stage II."""

from configs.sweeps import recipe

BASE = {"model.num_layers": 12, "model.num_heads": 12, "model.mlp_dim": 3072,
        "model.emb_dim": 768}
VIT_B = {"model_init.encoder": "howto-i21k-B/16"}
LONGER = dict(num_epochs=500)  # Section 4: from scratch it converges slower.
PUBLISHED = {"scratch_base": 41.0, "scratch_large": 41.4,
             "pretrained_base": 41.9, "pretrained_large": 43.7}


def get_sweep(size):
  full = size == "full"
  # On rooms the encoder must be as deep as f, from which it starts: "base" has
  # half of the decoder.
  base = BASE if full else {"model.decoder_layers": 2}
  pretrained_base = base | (VIT_B if full else {})
  scratch = recipe.scratch(size) | (LONGER if full else {})
  long, half = (2.5, 0.4) if full else (1, 0.8)
  return dict(
      title="Table 3: pretrained weights and size of stage II (paper; PQ on "
            "held-out pictures)",
      **recipe.base(size, "panoptic"),
      cells={
          "scratch_base": dict(title="from scratch, base",
                               stage2=base | scratch, cost=(1, long * half)),
          "scratch_large": dict(title="from scratch, large", stage2=scratch,
                                cost=(1, long)),
          "pretrained_base": dict(title="pretrained, base",
                                  stage2=pretrained_base, cost=(1, half)),
          "pretrained_large": dict(title="pretrained, large")},
      grid=dict(corner="", rows=["from scratch", "pretrained"],
                columns=["base", "large"]),
      scores={"stage2": dict(
          title="UViM, PQ", stage=2, published=PUBLISHED,
          metric=recipe.metric(size, "coco_panoptic_holdout/PQ", "PQ")[1])},
      checks=[
          ("pretraining, large", ("stage2", "pretrained_large"), ">",
           ("stage2", "scratch_large"), "43.7 : 41.4"),
          ("pretraining, base", ("stage2", "pretrained_base"), ">",
           ("stage2", "scratch_base"), "41.9 : 41.0"),
          ("size, pretrained", ("stage2", "pretrained_large"), ">",
           ("stage2", "pretrained_base"), "43.7 : 41.9"),
          ("size, from scratch", ("stage2", "scratch_large"), ">",
           ("stage2", "scratch_base"), "41.4 : 41.0")])
