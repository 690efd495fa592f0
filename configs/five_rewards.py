"""Aligns an editing policy with five families of rewards in one run.

  python -m jaxreward.main --workdir=runs/five \
    --config=configs/five_rewards.py

Each prompt has the portrait of a person as its source (docs/portraits.md). A reward
applies to the categories that it names, and to rows with the data for its
comparison: without an exact answer, fidelity is left out instead of scored 0. Each
family has a held-out measure, which is never used in training.

    family        rewards                 held-out exact measure
    alignment     carried_out             done: all requested attributes
    consistency   left_alone, background  untouched: all other attributes
    identity      same_person             recognised: all of the source's person
    quality       rated, by annotators    drawn: image quality, without a taste
                  with tastes and noise
    fidelity      ssim, psnr              rendered_equivalence: share of pixels
                                          equal to those of the exact answer

None of these needs weights. For real images use `clip_score`, `image_similarity`,
`background`, `identity`, `aesthetic` and `lpips` instead; they read source and
answer from the same rows.

Each reward is standardised within its group before the sum (GDPO, Liu et al.,
2026), so that weights are comparable.
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
