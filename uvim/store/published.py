"""Published weights: their names, their addresses, and what was fetched.

`PACKS` come with the package itself; all others are fetched.

Wherever a config takes a checkpoint, it takes a name of this table or an
https:// address too. `uvim.store.download` fetches both, once. What stands on
the Hugging Face hub may also be called 'hf:OWNER/NAME'; see `uvim.store.hub`.

Sources: the tables of the released READMEs for UViM and GIVT; for AugReg the
recommended files of "How to train your ViT?" (Steiner et al.), one per size;
for the other encoders the repositories of their authors or of timm.
"""

import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from uvim import registry
from uvim.store import checkpoint, download, hub, pack

HUB = "https://huggingface.co"
HOST = "https://storage.googleapis.com"
# 'uvim-panoptic' means the weights of the family that asks.
STAGES = {"vqvae": "stage1", "lm": "stage2"}
_FILE_STAGES = {"stage1": "stageI", "stage2": "stageII"}


_PACKS_FOLDER = pathlib.Path(__file__).parents[1] / "packs"
# Name → folder of a pack that was installed with this package.
PACKS = {"uvim-rooms-panoptic": str(_PACKS_FOLDER / "rooms_panoptic")}
# What a command that was given no checkpoint takes, and what it then says.
DEFAULT_PACK = "uvim-rooms-panoptic"
DEFAULT_NOTE = (
    f"no --checkpoint, so {DEFAULT_PACK} is used: it segments the drawn indoor "
    "scenes of `rooms` into 12 classes, at 48 × 48 pixels; it does not know "
    "the things of photographs.")


def _uvim_models() -> dict[str, str]:
  """Name → address of both stages of every task."""
  models = {}
  for task in ("panoptic", "depth", "color"):
    for stage, file_stage in _FILE_STAGES.items():
      file = f"{task}_{file_stage}_params.npz"
      models[f"uvim-{task}-{stage}"] = f"{HOST}/big_vision/uvim/{file}"
  return models


def _givt_models() -> dict[str, str]:
  """The same of GIVT, whose codes are real numbers."""
  file_stages = {"stage1": "vae", "stage2": "givt"}
  datasets = {"panoptic": "coco_panoptic", "depth": "nyu_depth"}
  models = {}
  for task, dataset in datasets.items():
    for stage, file_stage in file_stages.items():
      file = f"{file_stage}_{dataset}_params.npz"
      models[f"givt-{task}-{stage}"] = f"{HOST}/big_vision/givt/{file}"
  return models


MODELS = _uvim_models() | _givt_models()
# Size → the augmentation and weight decay that suited it best.
_RECIPES = {
    "Ti/16": "none-wd_0.03",
    "S/32": "none-wd_0.1",
    "S/16": "light1-wd_0.03",
    "B/32": "light1-wd_0.1",
    "B/16": "medium1-wd_0.1",
    "B/8": "medium2-wd_0.1",
    "L/16": "strong1-wd_0.1",
}


# Family and size → repository of the hub. timm has encoders alone: the files of
# MAE, DINO and CLIP are smaller there.
_REPOSITORIES = {
    "mae-B/16": "timm/vit_base_patch16_224.mae",
    "mae-L/16": "timm/vit_large_patch16_224.mae",
    "mae-H/14": "timm/vit_huge_patch14_224.mae",
    "dino-S/16": "timm/vit_small_patch16_224.dino",
    "dino-S/8": "timm/vit_small_patch8_224.dino",
    "dino-B/16": "timm/vit_base_patch16_224.dino",
    "dino-B/8": "timm/vit_base_patch8_224.dino",
    "dinov2-S/14": "facebook/dinov2-small",
    "dinov2-B/14": "facebook/dinov2-base",
    "dinov2-L/14": "facebook/dinov2-large",
    "dinov2_reg4-S/14": "facebook/dinov2-with-registers-small",
    "dinov2_reg4-B/14": "facebook/dinov2-with-registers-base",
    "dinov2_reg4-L/14": "facebook/dinov2-with-registers-large",
    "clip-B/32": "timm/vit_base_patch32_clip_224.openai",
    "clip-B/16": "timm/vit_base_patch16_clip_224.openai",
    "clip-L/14": "timm/vit_large_patch14_clip_224.openai",
    "siglip-B/16": "google/siglip-base-patch16-224",
    "siglip-L/16": "google/siglip-large-patch16-256",
}


def _vits() -> dict[str, str]:
  """Name → address of every pretrained ViT."""
  vits = {}
  for name, repository in _REPOSITORIES.items():
    vits[name] = f"{HUB}/{repository}/resolve/main/{hub.FILE}"
  for size, recipe in _RECIPES.items():
    file_size = size.replace("/", "_")
    file = f"{file_size}-i21k-300ep-lr_0.001-aug_{recipe}-do_0.0-sd_0.0.npz"
    vits[f"howto-i21k-{size}"] = f"{HOST}/vit_models/augreg/{file}"
  return vits


VITS = _vits()
_AUGREG = "howto-i21k"
# Matches what looks like such a name, misspelt ones too.
_FAMILIES = {name.rpartition("-")[0] for name in VITS}
_LIKE_A_VIT = re.compile(rf"({'|'.join(sorted(_FAMILIES))})-[A-Za-z]+/\d+")


def family_of(path: Any) -> str | None:
  """The family of a ViT by its published name; None: no such name."""
  if path not in VITS:
    return None
  family, _, _ = path.rpartition("-")
  return "augreg" if family == _AUGREG else family


Params = dict[str, Any]


def is_remote(path: str) -> bool:
  """Whether reading a path may ask a server: an address, or the hub."""
  return "://" in path or path.startswith(hub.PREFIX)


def is_like_a_name(path: str) -> bool:
  """Whether a path is a name of published weights, if only misspelt."""
  is_a_family = path.startswith(("uvim-", "givt-", "howto-"))
  return is_a_family or bool(_LIKE_A_VIT.fullmatch(path))


def load_params(
    path: str | os.PathLike,
    *,
    kind: str | None = None,
    load: Callable[[str], Params] = checkpoint.load_params,
) -> Params:
  """`checkpoint.load_params` of whatever `path` names.

  Args:
    path: see `locate`.
    kind: see `locate`.
    load: reads what lies at the path.

  Raises:
    ConfigError: as `locate` and `checkpoint.load_params`.
  """
  path = locate(path, kind=kind)
  try:
    return load(path)
  except registry.ConfigError:
    raise
  except Exception as e:  # Every client of a remote storage has its own.
    if "://" not in path:
      raise
    raise registry.ConfigError(
        f"Cannot read {path}: {e}. gs:// needs the network, and TensorFlow or "
        "the package gcsfs; what is public there is also at "
        f"{HOST}/BUCKET/FILE.") from e


def locate_pack(path: str | os.PathLike, client: hub.Client | None = None
                ) -> str | os.PathLike:
  """The folder of a pack that is named; any other path as it is.

  Args:
    path: a name of PACKS, 'hf:OWNER/NAME', or anything else.
    client: see `hub.fetch_pack`.

  Raises:
    ConfigError: as of `hub.fetch_pack`.
  """
  if path in PACKS:
    return PACKS[path]
  text = os.fspath(path)
  is_a_file = text.endswith(checkpoint.SAFETENSORS)
  if text.startswith(hub.PREFIX) and not is_a_file:
    return hub.fetch_pack(text, client) or path
  return path


def locate(path: str | os.PathLike, *, kind: str | None = None) -> str:
  """A path that can be opened, for all that a config may name.

  Args:
    path: a local path or gs://, which come back as they are; a pack of both
      stages, which for stage I means the one inside; an https://
      address, 'hf:OWNER/NAME' or a name ('uvim-panoptic', 'howto-i21k-L/16'),
      which are fetched unless they were before. A name wins over a file of
      that name: write './NAME' for the file.
    kind: the family whose weights 'uvim-TASK' means. None, or a family of which
      nothing is published: only the full names 'uvim-TASK-stage1' and
      'uvim-TASK-stage2' are known.

  Raises:
    ConfigError: an unknown name, no network, a download that breaks off.
  """
  path = os.fspath(path)
  if path in PACKS:
    path = PACKS[path]
  names = dict(MODELS | VITS)
  if kind in STAGES:
    ending = f"-{STAGES[kind]}"
    for name, address in MODELS.items():
      if name.endswith(ending):
        names[name.removesuffix(ending)] = address
  if path in names:
    return str(download.fetch(names[path]))
  if path.startswith(hub.PREFIX):
    return str(hub.fetch(path))
  if path.startswith("https://"):
    checkpoint.refuse_pickle(path)
    return str(download.fetch(path))
  if path.startswith("http://"):
    raise registry.ConfigError(
        f"{path}: weights are fetched over https:// only, so that nobody on "
        "the way can change them.")
  if is_like_a_name(path) and not os.path.exists(path):
    raise registry.unknown("weights", path, names | PACKS)
  # A pack of both stages means the one that the family asks for.
  if kind == "vqvae" and pack.holds_both(path):
    return pack.stage_i_of(path)
  return path
