"""The command that trains stage II: the prior of the guiding code.

  python -m trainers.lm --config configs/lm_….py \\
      --config.oracle.model_init=STAGE_I_WORKDIR --workdir W

What is trained is in trainers/families/lm.py.
"""

from trainers import main

if __name__ == "__main__":
  main.run("lm", __doc__)
