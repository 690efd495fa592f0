"""RM-NLHF: a right verdict earns as much as its critique says of what a person's says.

Wang et al. 2026, https://arxiv.org/abs/2601.07349: a judge that is paid for verdicts alone
guesses them, 20 to 30 % of its right ones follow a wrong critique; so what is paid is the
F1 of the arguments of its critique and of a person's. Here a critique is the thought before
a verdict on a scene, the person's is the exact one, and arguments are words. Their second
model, which learns that F1 and gives it where nobody has written a critique, is left out:
here every question has one. `unverified`: how verdict and critique are combined (here
their product), group size and KL.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.by_verdicts(dict(name="explained"), arg, __file__)
