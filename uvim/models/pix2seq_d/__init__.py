"""Pix2Seq-D: panoptic segmentation by diffusion over the bits of a mask.

  resnet, encoder, pyramid  what is seen of the image
  units, transunet          the mask decoder
  layers, waves             what these are made of
  network, checks           all of it as one network, and its fields
  sampling, model           steps from noise to a mask; loss
  video, video_training     masks from those of the frames before
"""

from uvim.models.pix2seq_d.model import Pix2SeqD

__all__ = ["Pix2SeqD"]
