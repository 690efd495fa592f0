"""Public shapes on TPU slices, LoRA and full: docs/compile_check.md.

  python -m jaxreward.main --config=configs/pods.py \
    --config.compile_check.effort=-1.0 \
    --sweep=configs/sweeps/pods.py --workdir=runs/pods
  python -m jaxreward.compilation.summary runs/pods/*/compile_check.json
"""

from jaxreward import config as config_lib

MODELS = ("sd35_medium", "sd35_large", "flux_dev")
SLICES = {"v5e-16": 16, "v5e-256": 256, "v5p-64": 32, "v6e-64": 64}  # devices
CHANGED = (
  "model.name", "model.size", "model.words", "model.param_dtype", "lora.rank",
  "rollout.num_steps", "rollout.guidance_scale",
)  # fmt: skip


def get_sweep():
  for model in MODELS:
    for lora in (True, False):
      spec = f"../pods.py:{model},lora={str(lora).lower()}"
      config = config_lib.load_sibling(spec, __file__)
      fields = {k: config[k.split(".")[0]][k.split(".")[1]] for k in CHANGED}
      for name, devices in SLICES.items():
        # Adapters leave room; a whole model in training is spread wide.
        fsdp = 16 if lora else min(devices, 64)
        yield {**fields, "topology": name, "mesh.fsdp": fsdp}
