"""The numbers of the recipe, and nothing else.

They are those of configs/vqvae_camvid_panoptic.py and its partner, which were
chosen by experiment. What depends on a data set stands in `plan`.
"""

# ── Sizes ───────────────────────────────────────────────────────────────────

# Labels have about so many patches, in the aspect of the images. Each patch has
# a word of the code.
NUM_PATCHES = 192
PATCH = 8
# For images of fewer pixels than that many patches have.
SMALL_PATCH = 4
# The optional encoder, a DINOv2, has so many of its patches to each side of one
# of the model's.
ENCODER_PATCH = 14
ENCODER_PATCHES_PER_SIDE = 2

STAGE_I = dict(
    width=256, oracle_depth=2, base_model_depth=2, mlp_dim=768, num_heads=8,
    dict_size=256, codeword_dim=32, dict_momentum=0.98)
STAGE_II = dict(num_layers=2, num_heads=6, mlp_dim=576, emb_dim=192)

# ── Labels ──────────────────────────────────────────────────────────────────

DEPTH_BINS = 64
# The part of an image that a random crop keeps at least.
CROP_AREA = 0.35
# A segment is dropped below this share of an image, or below one that most
# things of the data set exceed.
MIN_FRACTION = 0.0005
# Room for images with more segments than any that was seen.
SPARE_INSTANCES = 4
# Of the things that may touch another of their class, and still a class for
# each pixel tells what an image shows.
MAX_TOUCHING = 0.01

# ── Training ────────────────────────────────────────────────────────────────

BATCH_I = 8
BATCH_II = 16
LEARNING_RATE = 1e-3
WARMUP_STEPS = 200
# The augmentations of an image repeat after so many epochs if an encoder's
# features are cached.
CODES_PER_IMAGE = 6

# ── Time ────────────────────────────────────────────────────────────────────

MINUTES = 60
# What stage I gets of them.
SHARE_I = 0.7
# Longer runs learned the training images by heart.
MAX_EPOCHS_I = 200
MAX_EPOCHS_II = 100
MIN_STEPS = 400
# What training reaches of the speed of a product of large matrices. Small
# matrices, and what is no product, take the rest.
EFFICIENCY = 0.4
# A stage spends so long on its start and on compiling, and this share of its
# time on evaluators.
STARTUP_MINUTES = 2
EVAL_SHARE = 0.1
NUM_EVALS = 4
# Evaluators score so many images at most.
MAX_SCORED = 500
CHECKPOINT_MINUTES = 10
