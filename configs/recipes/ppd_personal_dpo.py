"""PPD: one policy draws for many users, each known by a few comparisons.

Dang et al. 2025, https://arxiv.org/abs/2501.06655: Diffusion-DPO whose policy reads a
vector of the user, made of four of the user's pairs, by cross-attention layers beside
those of the words. There a frozen vision-language model reads the pairs; here it is the
mean difference in colour of what was preferred. Unverified: which other layers learn,
beta, and whether users are left out at random. Users are planted, with opposite tastes;
four are in the test alone, as the average user and by their own pairs
(`evaluation.json`, policy_users).

After 100 iterations (seed 0; `eval.every=0`, `data.users.rows=240`), by the user's taste
against the base's image under the same noise: 94 % won for known users, 100 % for new ones
by four pairs, 50 % as the average user. The images hardly differ yet: red less blue is
.0043 to .0049 by user, and of the pairs of the test 57 and 56 % are told right.
"""

from jaxreward import recipes


def get_config(arg: str | None = None):
  """`:smoke` in miniature; there is no full size."""
  return recipes.for_users(arg, __file__, name="flow_dpo", beta=2000.0)
