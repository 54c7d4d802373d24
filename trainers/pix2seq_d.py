"""The command that trains Pix2Seq-D: panoptic segmentation without a code.

  python -m trainers.pix2seq_d --config configs/pix2seq_d_….py --workdir W

What is trained is in trainers/families/pix2seq_d.py.
"""

from trainers import main

if __name__ == "__main__":
  main.run("pix2seq_d", __doc__)
