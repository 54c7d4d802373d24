"""Diffusion over analog bits: the parts that need no network.

  bits       integers as bits, bits as numbers ±b, and back
  schedules  how much signal and how much noise there is at a time
  steps      how noise is added, and how one step takes some of it away
  outputs    what the numbers of the network mean, and their loss
  rows       a loss for a few rows of a mask at a time
  instances  how much a pixel counts, and random instance ids

Sources: Chen et al., "Analog Bits: Generating Discrete Data using Diffusion
Models with Self-Conditioning" (arXiv:2208.04202), and Chen et al., "A
Generalist Framework for Panoptic Segmentation of Images and Videos"
(Pix2Seq-D, arXiv:2210.06366) with its released code.
"""
