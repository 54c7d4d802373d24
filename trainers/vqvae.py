"""The command that trains stage I: restricted oracle and base model.

  python -m trainers.vqvae --config configs/vqvae_….py --workdir W

What is trained is in trainers/families/vqvae.py.
"""

from trainers import main

if __name__ == "__main__":
  main.run("vqvae", __doc__)
