"""Aligns a policy that edits scenes with five families of rewards in one run.

  python -m jaxreward.main --workdir=runs/edits_aligned \
    --config=configs/align_edits.py

Each prompt has a source image (`jaxreward.tasks.scenes.edits`): four kinds of edits,
one that keeps a subject's identity, and one that sharpens. A reward applies to the
categories that it names, and to rows with the data for its comparison: without an
exact answer, fidelity is left out instead of scored 0.

    family        reward                  compares the image with
    alignment     execution               the instruction
    consistency   preservation            objects that the instruction does not name
                  background              the source, outside the edited cells
    identity      subject                 the subject that the source shows
    quality       clean                   nothing: how even the background is
    fidelity      ssim, psnr              the exact answer

None of these needs weights. The detector's strict verdict, which is held out, says
whether the whole edit is right. For real images use `clip_score`,
`image_similarity`, `background`, `identity`, `aesthetic` and `lpips` instead; they
read source and answer from the same rows.

Each reward is standardised within its group before the sum (GDPO, Liu et al.,
2026), so that weights are comparable. The
policy to start from, runs/edits/policy.safetensors, comes from
configs/pretrain_edits.py.
"""

from jaxreward import config as config_lib

EDITS = dict(recolour=1.0, remove=1.0, add=1.0, move=1.0)


def get_config(arg: str | None = None):
  """`:smoke` for a few tiny iterations; `:flow_grpo` for that objective."""
  spec = f"align_scenes.py:{arg}" if arg else "align_scenes.py"
  config = config_lib.load_sibling(spec, __file__)
  config.model.takes_source = True
  config.data.update(
    source="edits", grammar="edits", kind_weights=(2, 1, 2, 2, 2, 2)
  )
  config.rewards = dict(
    execution=dict(fn="execution", weight=1.0),
    preservation=dict(fn="preservation", weight=0.5, kinds=EDITS),
    background=dict(fn="background", weight=0.5, kinds=EDITS),
    subject=dict(fn="subject", weight=1.0, kinds=dict(identity=1.0)),
    clean=dict(fn="clean", weight=0.25),
    ssim=dict(fn="ssim", weight=0.5, kinds=dict(EDITS, upscale=2.0)),
    psnr=dict(fn="psnr", weight=0.25, kinds=dict(upscale=1.0)),
  )
  config.heldout_rewards = dict(strict=dict(fn="strict", weight=1.0))
  config.composition = dict(name="gdpo", epsilon=1e-6)
  config.advantage = dict(name="group", std="none")
  if config.align.iterations < 10:  # smoke
    config.eval.guidance_scales = (1.0,)
    config.model.update(depth=2, width=64, unroll=1)
    config.init.checkpoint = ""
  else:
    config.init.checkpoint = "runs/edits/policy.safetensors"
  return config
