"""Folders of images and of their masks: found and matched by their names.

A file is known by its path below its folder, without the suffix. The mask of
`a/b.jpg` is `a/b.png`, or `a/b` with one of a few usual endings, such as
`a/b_mask.png`. So it is if the image has an ending of its own, as in
`b_leftImg8bit.png` and `b_gtFine_labelIds.png`.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tools.passes import raise_problems
from tools.prepare import image_files
from uvim.registry import ConfigError

# Endings that do not tell two images apart.
IMAGE_ENDINGS = ("_leftImg8bit", "_rgb", "_image", "_img")
# The first: no ending.
MASK_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_labelIds",
                "_gtFine_labelIds", "_seg", "_gt", "_L")
INSTANCE_ENDINGS = ("_instance", "_instances", "_instanceIds",
                    "_gtFine_instanceIds", "")


@dataclasses.dataclass(frozen=True)
class MaskedImage:
  """An image, its mask of classes and, if there are any, of instances.

  Attributes:
    name: path of the image below its folder; its name in the data set.
    image: the image file.
    mask: the PNG of classes.
    mask_name: path of the mask below its folder.
    instance_ids: a PNG with the ids of all instances, or None.
    instance_masks: a PNG for each instance, in a folder of the image.
  """
  name: str
  image: pathlib.Path
  mask: pathlib.Path
  mask_name: str
  instance_ids: pathlib.Path | None = None
  instance_masks: tuple[pathlib.Path, ...] = ()


def name_of(item: MaskedImage) -> str:
  return item.name


@dataclasses.dataclass(frozen=True)
class Folder:
  """A folder of masks.

  Attributes:
    path: the folder.
    option: that names it, for messages.
    endings: which a mask may have after the name of its image.
    suffix_option: gives another ending, for messages; "": there is none.
  """
  path: pathlib.Path
  option: str
  endings: Sequence[str]
  suffix_option: str = ""

  def by_key(self) -> dict[str, pathlib.Path]:
    """The files by their path below the folder, without suffix."""
    files = {}
    for path in image_files.list_files(self.path, self.option):
      key = _key(path, self.path)
      # Of a.jpg and a.png, the PNG can be the mask.
      if key not in files or path.suffix.lower() == ".png":
        files[key] = path
    if not files:
      raise ConfigError(f"{self.option}: no PNG below {str(self.path)!r}.")
    return files


def check_layout(*folders: pathlib.Path) -> None:
  """Raises a ConfigError unless these folders are below --root."""
  for folder in folders:
    if not folder.is_dir():
      raise ConfigError(f"--root: there is no folder {str(folder)!r}.")


def match(
    images: pathlib.Path,
    masks: Folder,
    *,
    skips_images: bool = False,
    images_option: str = "--images",
) -> list[MaskedImage]:
  """Pairs the images of a folder with the masks of another or the same.

  Args:
    images: folder of images.
    masks: folder of masks.
    skips_images: whether images without a mask are left out.
    images_option: names the folder of images, for messages.

  Raises:
    ConfigError: no such folder, nothing in it, an image without a mask or with
      two.
  """
  if images.resolve() == masks.path.resolve():
    # The same folder may be given in two spellings.
    masks = dataclasses.replace(masks, path=images)
  image_paths = _list_images(images, images_option, masks)
  mask_of = masks.by_key()
  items = []
  missing = []
  ambiguous = []
  for path in image_paths:
    key = _key(path, images)
    found = _find(key, masks.endings, mask_of, but=(path,))
    if not found:
      missing.append(path)
    elif len(found) > 1:
      ambiguous.append(_ambiguous(path, found, masks))
    else:
      name = path.relative_to(images).as_posix()
      mask_name = found[0].relative_to(masks.path).as_posix()
      items.append(MaskedImage(name, path, found[0], mask_name))
  raise_problems(ambiguous[:1], masks.option)
  if missing and not (skips_images and items):
    raise _no_mask(missing, images, masks, len(image_paths))
  _tell(len(items), len(missing), len(mask_of), masks.option)
  return items


def _list_images(images: pathlib.Path, option: str, masks: Folder
                 ) -> list[pathlib.Path]:
  """The images of a folder, without masks that lie in it too."""
  paths = image_files.list_files(images, option)
  if masks.path == images:
    paths = _without_masks(paths, masks)
  if not paths:
    raise ConfigError(f"{option}: no image below {str(images)!r}; looked for "
                      f"{', '.join(image_files.SUFFIXES)}.")
  return paths


def _without_masks(paths: Sequence[pathlib.Path], masks: Folder
                   ) -> list[pathlib.Path]:
  """The files of a folder of both that are no masks."""
  endings = tuple(filter(None, masks.endings))
  counts = collections.Counter(_key(path, masks.path) for path in paths)
  left = []
  for path in paths:
    is_png = path.suffix.lower() == ".png"
    # Of a.jpg and a.png, the second is the mask.
    is_second = is_png and counts[_key(path, masks.path)] > 1
    if not is_second and not path.stem.endswith(endings):
      left.append(path)
  return left


def _key(path: pathlib.Path, folder: pathlib.Path) -> str:
  return path.relative_to(folder).with_suffix("").as_posix()


def _keys_of_image(key: str) -> list[str]:
  """The name of an image, and that without a usual ending."""
  keys = [key]
  for ending in IMAGE_ENDINGS:
    if key.endswith(ending):
      keys.append(key.removesuffix(ending))
  return keys


def _find(key: str, endings: Sequence[str],
          files: Mapping[str, pathlib.Path], *,
          but: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """The files that may belong to an image, but some."""
  found = []
  for image_key in _keys_of_image(key):
    for ending in endings:
      path = files.get(image_key + ending)
      if path is not None and path not in (*but, *found):
        found.append(path)
  return found


def _ambiguous(path: pathlib.Path, found: Sequence[pathlib.Path],
               masks: Folder) -> str:
  """One sentence for an image with several masks."""
  names = " and ".join(mask.name for mask in found)
  remedy = "."
  if masks.suffix_option:
    remedy = f"; choose one by {masks.suffix_option}."
  return f"{path} may belong to {names}{remedy}"


def _no_mask(missing: Sequence[pathlib.Path], images: pathlib.Path,
             masks: Folder, num_images: int) -> ConfigError:
  """One line for all images without a mask."""
  key = _keys_of_image(_key(missing[0], images))[-1]
  endings = [ending for ending in masks.endings if ending]
  also = f", also with {', '.join(endings)} before .png" if endings else ""
  wanted = masks.path / f"{key}.png"
  if len(masks.endings) == 1:
    wanted = masks.path / f"{key}{masks.endings[0]}.png"
    also = ""
  remedy = ""
  if masks.suffix_option:
    remedy = f" Another ending: {masks.suffix_option}."
  return ConfigError(
      f"{masks.option}: {len(missing):,} of {num_images:,} images have no "
      f"mask; the first is {missing[0]}. Looked for {wanted}{also}.{remedy}")


def _tell(num_items: int, num_missing: int, num_files: int, option: str
          ) -> None:
  """Says what was found and what is left out."""
  print(f"Found {num_items:,} images with masks")
  if num_missing:
    print(f"Left out {num_missing:,} images without a mask")
  if num_files > num_items:
    print(f"{num_files - num_items:,} other files are in {option}")


def add_instances(items: Iterable[MaskedImage], instances: Folder
                  ) -> list[MaskedImage]:
  """The same items with their masks of instances.

  Args:
    items: from `match`.
    instances: has a PNG of ids for each image, named as a mask may be, or a
      folder of PNGs for each image, named as the image.

  Raises:
    ConfigError: no such folder, or an image has no PNG of ids.
  """
  files = instances.by_key()
  in_folder = collections.defaultdict(list)
  for key, path in files.items():
    parent = pathlib.PurePath(key).parent.as_posix()
    in_folder[parent].append(path)
  with_instances = []
  missing = []
  num_folders = 0
  for item in items:
    key = pathlib.PurePath(item.name).with_suffix("").as_posix()
    masks = _in_folder_of(key, in_folder)
    id_files = _find(
        key, instances.endings, files, but=(item.image, item.mask))
    if masks:
      num_folders += 1
      item = dataclasses.replace(item, instance_masks=tuple(masks))
    elif id_files:
      item = dataclasses.replace(item, instance_ids=id_files[0])
    else:
      missing.append(item.image)
    with_instances.append(item)
  # In folders, an image without an instance has no file.
  if missing and not num_folders:
    raise ConfigError(
        f"{instances.option}: {len(missing):,} of {len(with_instances):,} "
        f"images have no PNG of ids and no folder; the first is {missing[0]}.")
  return with_instances


def _in_folder_of(key: str, in_folder: Mapping[str, list[pathlib.Path]]
                  ) -> list[pathlib.Path]:
  """The PNGs of the instances of an image."""
  for image_key in _keys_of_image(key):
    if image_key in in_folder:
      return in_folder[image_key]
  return []
