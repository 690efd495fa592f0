"""Aligns an editing policy with five families of rewards in one run.

  python -m jaxreward.main --workdir=runs/five \
    --config=configs/five_rewards.py

The tasks start from the portrait of a person (docs/portraits.md). A reward has a
say in the kinds that it names, and in rows that have what it compares with: where
there is no exact answer, fidelity is left out, and not 0. Each family has a measure
that is held out, and nothing is trained on.

    family        rewards                 held out, the exact measure
    alignment     carried_out             done: all that the words ask for
    consistency   left_alone, background  untouched: all that they do not speak of
    identity      same_person             recognised: all of the source's person
    quality       rated, by annotators    drawn: how well, to nobody's taste
                  with tastes and noise
    fidelity      ssim, psnr              rendered_equivalence: share of pixels
                                          that are those of the exact answer

All of these need no weights. Of real pictures the same places are taken by
`clip_score`, `image_similarity`, `background`, `identity`, `aesthetic` and
`lpips`, which find source and answer in the same rows.

Each reward is measured by its own group's mean and deviation before they are
added up (GDPO, Liu et al., 2026), so that a weight means the same for all.
"""

from jaxreward import config as config_lib


def get_config(arg: str | None = None):
  """`:smoke` for a few tiny iterations."""
  smoke = config_lib.parse_arg(arg, smoke=False)["smoke"]
  spec = "portrait_edits.py:smoke" if smoke else "portrait_edits.py"
  config = config_lib.load_sibling(spec, __file__)
  config.rewards.rated = dict(fn="rated", weight=0.25, noise=0.1)
  config.rewards.ssim = dict(fn="ssim", weight=0.5)
  config.rewards.psnr = dict(
    fn="psnr", weight=0.25, kinds=dict(sharpen=1.0, fill=1.0, colour=1.0)
  )
  config.heldout_rewards.update(
    drawn=dict(fn="drawn", weight=1.0),
    rendered_equivalence=dict(
      fn="rendered_equivalence", weight=1.0, tolerance=0.1
    ),
  )
  return config
