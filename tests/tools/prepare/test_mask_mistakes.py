"""What newcomers do wrong with masks: one exact line for each mistake."""

import numpy as np
import pytest
from PIL import Image

from tests.tools.prepare import raw_files
from tests.tools.prepare.raw_masks import CUP, RawMasks, class_map, instance_map


@pytest.fixture
def raw(tmp_path):
  return RawMasks(tmp_path)


@pytest.fixture
def failure(raw, capsys):
  """Runs the command; gives its one line without the bar and 'error: '."""
  def run(*extra, **options):
    message = raw.failure(capsys, *extra, **options)
    [line] = [line for line in message.splitlines() if "error: " in line]
    assert message.endswith(f"{line}\n")
    return line.removeprefix("error: ")
  return run


def palette_image(class_HW, palette):
  image = Image.fromarray(class_HW).convert("P")
  image.putdata(class_HW.ravel().tolist())
  image.putpalette(palette)
  return image


def test_wrong_folder(raw, failure):
  assert failure(masks="/nowhere") == "--masks: '/nowhere' is not a folder."
  empty = raw.images / "none"
  empty.mkdir()
  assert failure(images=empty) == (
      f"--images: no image below {str(empty)!r}; looked for .jpg, .jpeg, .png, "
      ".bmp, .gif, .webp, .tif, .tiff.")
  assert failure(masks=empty) == f"--masks: no PNG below {str(empty)!r}."


def test_colors_where_ids_are_wanted(raw, failure):
  class_HW = class_map()
  first = raw.save_all(np.stack([class_HW, class_HW, 9 - class_HW], -1))
  assert failure() == (
      f"--masks: {first} (and 2 more files): is a mask of 4 colors, but "
      "--classes has ids only. Write 'R G B name' lines in --classes, or give "
      "masks of ids.")


def test_palettes_whose_index_is_no_class(raw, failure):
  first = raw.save_all(palette_image(class_map() + 3, range(60)))
  assert failure() == (
      f"--masks: {first} (and 2 more files): is a palette PNG that has classes "
      "4, 5, 6, but the ids of --classes are 0 to 3. The index is the class "
      "there. If colors count, write 'R G B name' lines in --classes.")


def test_palettes_that_differ(raw, failure):
  """As programs make them that choose a palette for each image."""
  raw.save_all(palette_image(class_map(), range(60)))
  other = raw.save_mask("b.png", palette_image(class_map(), range(60, 120)))
  assert failure() == (
      f"--masks: {other}: its palette gives 0 the color (60, 61, 62), that of "
      "a.png the color (0, 1, 2). Write 'R G B name' lines in --classes, so "
      "that colors count; if the index is the class, save the masks in gray.")


def test_classes_that_begin_with_1(raw, failure):
  first = raw.save_all(class_map() + 1)
  assert failure() == (
      f"--masks: {first} (and 2 more files): has class 4, but the ids of "
      "--classes are 0 to 3. If 0 is void and the first class has the id 1, "
      "add --first_id 1 --void 0; else 4 lacks a name in --classes.")


def test_classes_that_begin_with_1_beside_void(raw, failure):
  class_HW = class_map() + 1
  class_HW[0] = 255
  raw.save_all(class_HW)
  line = failure()
  assert "has classes 4, 255, but the ids of --classes are 0 to 3. " in line
  assert "If 0 is void and the first class has the id 1" in line


def test_classes_that_begin_with_0(raw, failure):
  first = raw.masks / "a.png"
  assert failure(first_id=1) == (
      f"--masks: {first} (and 2 more files): has class 0, but the ids of "
      "--classes are 1 to 4. If 0 is void, add --void 0; if it is the first "
      "class, begin with 0 in --classes.")


def test_void_that_is_a_class(failure):
  assert failure(void=0) == (
      "--void: 0 is the class 'floor' in --classes. If the first class has the "
      "id 1 in the masks, add --first_id 1; if this class is to be void, write "
      "--void 'floor'.")


def test_void_that_nobody_named(raw, failure):
  class_HW = class_map()
  class_HW[0] = 255
  mask = raw.save_mask("b.png", class_HW)
  assert failure() == (
      f"--masks: {mask}: has class 255, but the ids of --classes are 0 to 3. "
      "If 255 is void, add --void 255; if it is a class, write '255 name' in "
      "--classes.")


def test_another_size(raw, failure):
  raw.save_image("b.jpg", 16, 20)
  assert failure() == (
      f"--masks: {raw.masks / 'b.png'}: has height x width 8x10, but the image "
      "b.jpg has 16x20. An image and its masks need one size; resize masks "
      "with the nearest neighbor.")


def test_a_mask_that_was_drawn_on_the_turned_image(raw, failure):
  exif = Image.Exif()
  exif[274] = 6
  raw_files.save(raw.images / "b.jpg", raw_files.gradient(10, 8), exif=exif)
  assert failure() == (
      f"--masks: {raw.masks / 'b.png'}: fits the image b.jpg only after the "
      "turn that its EXIF asks for. Masks lie on the pixels as they are "
      "stored: turn the masks, or save the images upright.")


def test_16_bits_that_were_stretched(raw, failure):
  first = raw.save_all(257 * class_map().astype(np.uint16))
  assert failure() == (
      f"--masks: {first} (and 2 more files): has 16 bits and values up to 771, "
      "but the ids of --classes end with 3. All are multiples of 257: a "
      "program stretched 8 bits to 16. Save the ids themselves.")


def test_16_bits_of_something_else(raw, failure):
  first = raw.save_all(1000 * class_map().astype(np.uint16) + 3)
  assert failure() == (
      f"--masks: {first} (and 2 more files): has 16 bits and values up to "
      "3003, but the ids of --classes end with 3. Ids of instances or "
      "segments, or depth, are no classes: give masks of classes.")


def test_jpeg(raw, failure):
  """Told by the content, not by the name."""
  first = raw.save_all(class_map(), format="JPEG")
  assert failure() == (
      f"--masks: {first} (and 2 more files): is a JPEG, which changes ids at "
      "every border. Make the masks again as PNG; a conversion of the JPEG "
      "does not bring the ids back.")


def test_missing(raw, failure):
  (raw.masks / "b.png").unlink()
  assert failure() == (
      "--masks: 1 of 3 images have no mask; the first is "
      f"{raw.images / 'b.jpg'}. Looked for {raw.masks / 'b.png'}, also with "
      "_mask, _masks, _label, _labels, _labelIds, _gtFine_labelIds, _seg, _gt, "
      "_L before .png. Another ending: --mask_suffix.")


def test_list_that_is_too_short(raw, failure):
  raw.list.write_text("floor\nwall\n")
  assert failure() == (
      f"--masks: {raw.masks / 'a.png'} (and 2 more files): has classes 2, 3, "
      "but the ids of --classes are 0 to 1. The list is too short: name all "
      "classes in --classes, or add --void 2 3.")


def test_instances_in_two_classes(raw, failure, tmp_path):
  instance_HW = instance_map()
  instance_HW[class_map() == CUP] = 12
  for name in ("a.png", "b.png", "street/c.png"):
    raw_files.save(tmp_path / "ids" / name, instance_map())
  wrong = tmp_path / "ids/b.png"
  raw_files.save(wrong, instance_HW)
  options = {"command": "instances", "instances": tmp_path / "ids",
             "things": "cup,box"}
  assert failure(**options) == (
      f"--masks: {wrong}: instance 12 lies in 'cup' (18 pixels) and in 'box' "
      "(4 pixels). Give each instance an id of its own; if ids count within "
      "each class, add --ids_per_class.")


def test_an_unknown_color(raw, failure):
  raw.list.write_text("0 0 0 floor\n9 9 9 wall\n")
  rgb_HW3 = np.zeros((8, 10, 3), np.uint8)
  raw.save_all(rgb_HW3)
  rgb_HW3[3, 3] = 1, 2, 3
  mask = raw.save_mask("b.png", rgb_HW3)
  assert failure() == (
      f"--masks: {mask}: has the color (1, 2, 3), which --classes lacks. Name "
      "all colors there. Hundreds of colors mean that a mask was smoothed or a "
      "JPEG once.")


def test_two_masks_of_one_image(raw, failure):
  raw.save_mask("a_mask.png", class_map())
  assert failure() == (
      f"--masks: {raw.images / 'a.jpg'} may belong to a.png and a_mask.png; "
      "choose one by --mask_suffix.")


def test_two_mistakes_are_two_lines(raw, capsys):
  raw.save_image("b.jpg", 16, 20)
  raw.save_mask("a.png", class_map(), format="JPEG")
  message = raw.failure(capsys)
  assert "--masks: 2 problems." in message
  assert "a.png: is a JPEG" in message
  assert "b.png: has height x width" in message


def test_a_damaged_mask_and_a_damaged_image(raw, capsys):
  content = (raw.masks / "a.png").read_bytes()
  (raw.masks / "a.png").write_bytes(content[:-40])
  (raw.images / "b.jpg").write_text("no image")
  message = raw.failure(capsys)
  assert f"{raw.masks / 'a.png'}: cannot be read" in message
  assert f"{raw.images / 'b.jpg'}: not an image" in message
