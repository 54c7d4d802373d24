"""Checks that the fields of Pix2Seq-D's network fit each other."""

from uvim.diffusion import bits
from uvim.models.pix2seq_d.network import MAPS, Network
from uvim.models.pix2seq_d.resnet import STEMS
from uvim.registry import ConfigError


def check_network(network: Network, where: str) -> None:
  """Checks sizes before anything is built.

  Args:
    network: has fields that are allowed one by one.
    where: path of the block that holds them, such as "config.model".

  Raises:
    ConfigError: names the field, what came and what is allowed.
  """
  sizes = dict(zip(MAPS, network.sizes, strict=True))
  bits.check_capacity(network.num_bits, sizes, f"{where}.num_bits")
  _check_multiple(where, "encoder_dim", network.encoder_dim, 4)
  _check_multiple(where, "bottom_dim", network.bottom_dim, 4)
  _check_multiple(where, "decoder_dim", network.decoder_dim, 2)
  _check_divisor(where, "encoder_heads", network.encoder_heads,
                 "encoder_dim", network.encoder_dim)
  _check_divisor(where, "bottom_heads", network.bottom_heads,
                 "bottom_dim", network.bottom_dim)
  _check_image_size(network, where)
  _check_mask_size(network, where)
  _check_pyramid(network, where)


def _check_multiple(where, name, value, factor):
  if value % factor:
    raise ConfigError(
        f"{where}.{name} = {value}; it must be a multiple of {factor}.")


def _check_divisor(where, name, value, of_name, of_value):
  if of_value % value:
    raise ConfigError(f"{where}.{name} = {value}; it must be a divisor of "
                      f"{of_name} {of_value}.")


def _check_image_size(network, where):
  """Checks that the encoder's maps have whole places, and at least two."""
  image_size = tuple(network.input_size)
  if network.image_encoder is not None:
    _check_image_encoder(network, where)
    return
  rows, columns = network.map_sizes[-1]
  num_halvings = len(network.resnet_blocks) - 1
  stride = STEMS[network.stem] * 2**num_halvings
  has_whole_places = image_size == (rows * stride, columns * stride)
  if not has_whole_places or rows * columns < 2:
    raise ConfigError(
        f"{where}.input_size = {image_size}; both numbers must be multiples "
        f"of {stride}, the stride of the ResNet, and one of them larger.")


def _check_image_encoder(network, where):
  """Checks the network that takes the place of the ResNet."""
  encoder = network.image_encoder
  image_size = tuple(network.input_size)
  encoder_size = tuple(encoder.input_size)
  if encoder_size != image_size:
    raise ConfigError(
        f"{where}.input_size = {image_size}; it must be that of its "
        f"image_encoder, {encoder_size}.")
  if encoder.beside:
    raise ConfigError(
        f"{where}.image_encoder.beside = True; it must be False: there is "
        "nothing beside which it could stand.")


def _check_mask_size(network, where):
  """Checks that the decoder's maps have whole places, and at least two."""
  mask_size = tuple(network.mask_size)
  num_halvings = len(network.channel_multipliers) - 1
  stride = network.mask_patch * 2**num_halvings
  rows = mask_size[0] // stride
  columns = mask_size[1] // stride
  has_whole_places = mask_size == (rows * stride, columns * stride)
  # A position on a map of one place is 0 / 0.
  if not has_whole_places or rows * columns < 2:
    raise ConfigError(
        f"{where}.mask_size = {mask_size}; both numbers must be multiples of "
        f"{stride} (mask_patch {network.mask_patch}, halved {num_halvings} "
        "times), and one of them larger.")


def _check_pyramid(network, where):
  """Checks that the encoder's maps can be enlarged to the decoder's."""
  grid = network.grid_size
  fitting = [size for size in network.map_sizes if size[0] <= grid[0]]
  if not fitting:
    fitting = network.map_sizes[-1:]
  finest = fitting[0]
  factor = max(grid[0] // finest[0], 1)
  if grid != (finest[0] * factor, finest[1] * factor):
    raise ConfigError(
        f"{where}.mask_size = {tuple(network.mask_size)} makes a map of {grid} "
        f"places; it must be one of the encoder's maps "
        f"{network.map_sizes} or a whole number of times the finest that is "
        "not larger.")
