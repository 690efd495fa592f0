"""PARM: is it clear enough to judge, and can it still become right?

Guo et al. 2025, https://arxiv.org/abs/2501.13926, of token images: a trained model says of
what is there so far whether it is clear, once it is whether it can become right, and of the
finished images which is best; who it says no of is left out, and without anybody left the
one with the least no is taken. Here the estimates of a flow are looked at, it is static
when they are clear (after three of ten steps), and the judge that ships, which was taught
no potential, says what can become right and which is best; 20 samples there, 8 here. The
detector watches.
Whether an image is clear enough is not asked: the judge that ships knows 159 tokens, of
which none is "clear", "sharp", "blurred" or "enough". With a judge that can say it, give it
a reward of its own and name that in `eval.steering.clear`; `looks` may then be several.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  small = recipes.size_of(arg) == "smoke"
  config = recipes.steered(
    arg, __file__, sampler="ode", num_steps=2 if small else 10, name="potential",
    particles=2 if small else 8, looks=(1,) if small else (3,), by="judge",
  )  # fmt: skip
  return recipes.steered_by_judge(config)
