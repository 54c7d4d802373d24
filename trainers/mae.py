"""The command that trains an image encoder from images alone.

  python -m trainers.mae --config configs/mae_….py --workdir W

What is trained is in trainers/families/mae.py.
"""

from trainers import main

if __name__ == "__main__":
  main.run("mae", __doc__)
