"""The command that trains an image encoder from images alone, by DINO.

  python -m trainers.dino --config configs/dino_….py --workdir W

What is trained is in trainers/families/dino.py.
"""

from trainers import main

if __name__ == "__main__":
  main.run("dino", __doc__)
