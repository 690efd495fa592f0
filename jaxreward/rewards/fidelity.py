"""How close an image is to a reference.

Distances are negated, so that higher is better. References are the prompts'
targets (for `condition_cycle` their sources too), or come from a folder; see
`references`. An image without a reference scores NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxreward.errors import UserError
from jaxreward.models import convert, hub
from jaxreward.models.vision import perceptual, preprocess
from jaxreward.models.vision.encoders import Encoder
from jaxreward.rewards import consistency, contract
from jaxreward.rewards import references as files
from jaxreward.rewards.contract import Loaded, declare
from jaxreward.types import Array, ArrayLike, Params, PromptBatch

Images = Float[ArrayLike, "P G H W 3"]
Reference = Float[ArrayLike, "P 1 h w 3"]
Known = Bool[ArrayLike, "P 1"]
Scores = dict[str, Float[Array, "P G"]]
Pictures = Float[ArrayLike, "B H W C"]

_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(a: Pictures, b: Pictures) -> Float[Array, "B"]:
  """10 log10(1 / mean squared error) in dB; 100 for identical images."""
  error = jnp.square(jnp.asarray(a) - b).mean((1, 2, 3))
  return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def _blur(x: Array) -> Array:
  """Gaussian blur of 11 pixels and sigma 1.5, without padding."""
  at = np.arange(11) - 5
  line = np.exp(-(at**2) / (2 * 1.5**2))
  line = jnp.asarray(line / line.sum(), x.dtype)
  channels = x.shape[-1]
  for shape in ((11, 1, 1, 1), (1, 11, 1, 1)):
    x = jax.lax.conv_general_dilated(
      x, jnp.tile(line.reshape(shape), (1, 1, 1, channels)), (1, 1), "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=channels, precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
  return x


def _ssim_parts(a: Pictures, b: Pictures) -> tuple[Array, Array]:
  """(mean SSIM, mean of its contrast and structure term), each [B, C]."""
  a, b = jnp.asarray(a), jnp.asarray(b)
  if min(a.shape[1:3]) < 11:
    raise UserError(
      f"ssim: pictures of {a.shape[1]} x {a.shape[2]} are smaller than its"
      " window of 11 pixels"
    )
  ma, mb = _blur(a), _blur(b)
  va, vb = _blur(a * a) - ma * ma, _blur(b * b) - mb * mb
  covariance = _blur(a * b) - ma * mb
  contrast = (2 * covariance + 0.03**2) / (va + vb + 0.03**2)
  mean = (2 * ma * mb + 0.01**2) / (ma * ma + mb * mb + 0.01**2)
  return (mean * contrast).mean((1, 2)), contrast.mean((1, 2))


def ssim(a: Pictures, b: Pictures) -> Float[Array, "B"]:
  """Structural similarity of images in [0, 1], the mean over channels.

  Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K = 0.01 and 0.03.
  """
  return _ssim_parts(a, b)[0].mean(-1)


def ms_ssim(a: Pictures, b: Pictures) -> Float[Array, "B"]:
  """SSIM over five scales (Wang et al. 2003); sides of 176 pixels or more.

  Each scale averages 2 x 2 pixels of the one before; an odd row or column is
  dropped. Negative terms, whose power is not defined, count as 0.
  """
  a, b = jnp.asarray(a), jnp.asarray(b)
  if min(a.shape[1:3]) < 176:
    raise UserError(
      f"ms_ssim: pictures of {a.shape[1]} x {a.shape[2]} are too small for"
      " five scales, which need 176 pixels a side; use ssim"
    )
  total = jnp.ones((a.shape[0], a.shape[-1]))
  for i, power in enumerate(_SCALES):
    index, contrast = _ssim_parts(a, b)
    term = index if i == len(_SCALES) - 1 else contrast
    total = total * jnp.maximum(term, 1e-12) ** power
    a, b = _halved(a), _halved(b)
  return total.mean(-1)


def _halved(x: Array) -> Array:
  h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  x = x[:, :h, :w].reshape(x.shape[0], h // 2, 2, w // 2, 2, -1)
  return x.mean((2, 4))


def against(
  measure: Callable[[Array, Array], Array],
  images: Images,
  reference: Reference,
  known: Known,
) -> Float[Array, "P G"]:
  """A pairwise measure of every image and its prompt's reference.

  References are center-cropped to the images' aspect ratio and resized to their
  size; images that are not finite and those without a reference get NaN.
  """
  images = jnp.asarray(images)
  p, g, h, w, _ = images.shape
  usable = jnp.isfinite(images).all((2, 3, 4)) & jnp.asarray(known)
  safe = jnp.where(usable[..., None, None, None], images, 0.0)
  target = preprocess.fitted(jnp.asarray(reference)[:, 0], (h, w))
  target = jnp.repeat(target, g, 0)
  values = measure(safe.reshape(p * g, h, w, 3), target).reshape(p, g)
  return jnp.where(usable, values, jnp.nan)


def load_references(references: str = "", image_size: int = 512) -> Loaded:
  """The images to compare with.

  Args:
    references: the folder; see `references`. Empty for the prompts' own.
    image_size: length of their shorter side; see `references.images_of`.
  """
  return Loaded(prepare=files.images_of(references, "image", image_size))


def _full_reference(name: str, measure: Callable[[Array, Array], Array]):
  """A reward from a measure without weights."""

  @declare(loads=load_references, applies=files.has("target"))
  def reward(
    images: Images,
    prompts: PromptBatch,
    *,
    reference: Reference | None = None,
    known: Known | None = None,
  ) -> Scores:
    pair = files.resolve(prompts, "target", reference, known)
    return {name: against(measure, images, *pair)}

  reward.__name__, reward.__doc__ = name, measure.__doc__
  return reward


psnr_reward = _full_reference("psnr", psnr)
ssim_reward = _full_reference("ssim", ssim)
ms_ssim_reward = _full_reference("ms_ssim", ms_ssim)


def load_lpips(
  weights: str, references: str = "", image_size: int = 512, net: str = "vgg"
) -> Loaded:
  """LPIPS's network and the images to compare with.

  Args:
    weights: the state of `lpips.LPIPS(net=...)` as safetensors.
    references: the folder; see `references`.
    image_size: see `load_references`.
    net: "vgg" or "alex".
  """
  if net not in perceptual.WIDTHS:
    raise UserError(f"net={net}: known are {', '.join(perceptual.WIDTHS)}")
  model = perceptual.Lpips(net)
  kept_once = "lin0.model.1.weight" not in hub.open_weights(weights)
  rules = perceptual.lpips_rules(net, "lins.{}" if kept_once else "lin{}")
  params = _load(model, weights, rules)
  return Loaded(
    {"distance": _distance(model)},
    {"params": params},
    {"params": perceptual.SHARDING_RULES},
    files.images_of(references, "image", image_size),
  )


def load_dists(
  weights: str,
  references: str = "",
  image_size: int = 512,
  edge: int = 256,
) -> Loaded:
  """DISTS's network and the images to compare with.

  Args:
    weights: the state of the published module as safetensors.
    references: the folder; see `references`.
    image_size: see `load_references`.
    edge: images whose shorter side is longer are first resized to it, as by the
      authors; 0 for no resizing.

  Raises:
    UserError: see `convert.load_params`; or an edge below 0.
  """
  if edge < 0:
    raise UserError(f"edge={edge}: it is a length in pixels, or 0")
  model = perceptual.Dists()
  params = _load(model, weights, perceptual.dists_rules())
  distance = _distance(model)
  small = lambda params, *pair: distance(
    params, *(within(x, edge) for x in pair)
  )
  return Loaded(
    {"distance": small if edge else distance},
    {"params": params},
    {"params": perceptual.SHARDING_RULES},
    files.images_of(references, "image", image_size),
  )


def within(x: Pictures, edge: int) -> Float[Array, "B h w C"]:
  """Images whose shorter side is at most `edge`, resized as by Pillow."""
  x = jnp.asarray(x)
  if min(x.shape[1:3]) <= edge:
    return x
  size = preprocess.shorter_to(edge, *x.shape[1:3])
  return preprocess.resize(preprocess.rounded(x), size, "linear")


Distance = Callable[[Params, Array, Array], Array]


def _distance(model) -> Distance:
  return lambda params, a, b: model.apply({"params": params}, a, b)


def _load(model, weights: str, rules) -> Params:
  picture = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), picture, picture)
  return convert.load_params(weights, rules, variables["params"])


@declare(loads=load_lpips, applies=files.has("target"))
def lpips(
  images: Images,
  prompts: PromptBatch,
  *,
  distance: Distance,
  params: Params,
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """Minus the LPIPS distance to the reference (Zhang et al. 2018).

  Args:
    images: in [0, 1].
    prompts: P prompts.
    distance: the network.
    params: of the network.
    reference: of each prompt.
    known: whether there is one.
  """
  measure = lambda a, b: -distance(params, a, b)
  pair = files.resolve(prompts, "target", reference, known)
  return {"lpips": against(measure, images, *pair)}


@declare(loads=load_dists, applies=files.has("target"))
def dists(
  images: Images,
  prompts: PromptBatch,
  *,
  distance: Distance,
  params: Params,
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """Minus the DISTS distance to the reference (Ding et al. 2020).

  Large images are first resized to 256 pixels; see `load_dists`. Arguments as
  `lpips`.
  """
  measure = lambda a, b: -distance(params, a, b)
  pair = files.resolve(prompts, "target", reference, known)
  return {"dists": against(measure, images, *pair)}


def _grey(x: Any) -> Any:
  return x @ np.array([0.299, 0.587, 0.114], np.float32)


def edges(x: Any) -> Any:
  """Sobel gradient magnitude of the grey images [B, H, W, 3], NumPy's or JAX's.

  [B, H - 2, W - 2, 1]; 1 along a straight edge of black and white.
  """
  y = _grey(x)
  tall = y[:, :-2] + 2 * y[:, 1:-1] + y[:, 2:]
  wide = y[:, :, :-2] + 2 * y[:, :, 1:-1] + y[:, :, 2:]
  dx = tall[:, :, 2:] - tall[:, :, :-2]
  dy = wide[:, 2:] - wide[:, :-2]
  return ((dx**2 + dy**2) / 16 + 1e-9)[..., None] ** 0.5


CONDITIONS: dict[str, Callable[[Array], Array]] = {
  "edges": edges,
  "grey": lambda x: _grey(x)[..., None],
  "layout": lambda x: _pooled(x, 8),
}


def _pooled(x: Array, side: int) -> Array:
  return jax.image.resize(
    x, (x.shape[0], side, side, x.shape[-1]), "linear", antialias=True
  )


def cycle(
  extract: Callable[[Array], Array],
  images: Images,
  control: Float[ArrayLike, "P ..."],
  known: Known,
) -> contract.Scores:
  """1 - mean |c - control| / (mean |control| + 0.01), and each pixel's c - control.

  Args:
    extract: images [P G, H, W, 3] -> c [P G, ...].
    images: in [0, 1]; one with a value that is not finite gets NaN.
    control: of each prompt, in the shape of c.
    known: whether there is one; images of a prompt without it get NaN.
  """
  images = jnp.asarray(images)
  p, g, *shape = images.shape
  usable = jnp.isfinite(images).all((2, 3, 4)) & jnp.asarray(known)
  safe = jnp.where(usable[..., None, None, None], images, 0.0)
  extracted = extract(safe.reshape(p * g, *shape)).reshape(p, g, -1)
  control = jnp.asarray(control).reshape(p, 1, -1)
  errors = extracted - control
  scale = jnp.abs(control).mean(-1) + 0.01
  value = 1 - jnp.abs(errors).mean(-1) / scale
  return contract.Scores(
    jnp.where(usable, value, jnp.nan),
    errors=jnp.where(usable[..., None], errors, jnp.nan),
  )


def _require_field(field: str) -> None:
  if field not in ("source", "target"):
    raise UserError(
      f'condition_cycle.field="{field}": known are "source" and "target"'
    )


def _has_field(prompts: PromptBatch, *, field: str = "source") -> Array:
  """Rows that `condition_cycle` of this field applies to."""
  _require_field(field)
  return files.has(field)(prompts)


@declare(loads=load_references, applies=_has_field, gives_errors=True)
def condition_cycle(
  images: Images,
  prompts: PromptBatch,
  *,
  reference: Reference | None = None,
  known: Known | None = None,
  condition: str = "edges",
  field: str = "source",
) -> dict[str, contract.Scores]:
  """1 - mean |c(image) - c(reference)| / (mean |c(reference)| + 0.01).

  The condition is extracted again from the image and compared with the one that
  the image was generated from (Li et al. 2024, ControlNet++,
  https://arxiv.org/abs/2404.07987).

  Args:
    images: in [0, 1].
    prompts: P prompts.
    reference: the image that the condition was extracted from.
    known: whether there is one.
    condition: c: "edges" (Sobel), "grey" or "layout" (8 x 8 colours).
    field: of the prompts' own images: "source", or "target" where the source is
      c(target), the control image itself, and not an image that has one.
  """
  if condition not in CONDITIONS:
    raise UserError(
      f"condition_cycle.condition={condition}: known are"
      f" {', '.join(CONDITIONS)}"
    )
  _require_field(field)
  reference, known = files.resolve(prompts, field, reference, known)
  draw, (_, _, h, w, _) = CONDITIONS[condition], jnp.shape(images)
  control = draw(preprocess.fitted(jnp.asarray(reference)[:, 0], (h, w)))
  return {"condition_cycle": cycle(draw, images, control, known)}


@declare(loads=load_references, applies=files.has("target"))
def rendered_equivalence(
  images: Images,
  prompts: PromptBatch,
  *,
  reference: Reference | None = None,
  known: Known | None = None,
  tolerance: float = 0.04,
) -> Scores:
  """Share of pixels whose every channel is within `tolerance` of the reference.

  For images that should match exactly, such as renderings of charts, text or
  code, where a near miss is an error.

  Args:
    images: in [0, 1].
    prompts: P prompts.
    reference: the requested rendering.
    known: whether there is one.
    tolerance: in [0, 1]; 0.04 is ten levels of 256.
  """

  def measure(a: Array, b: Array) -> Array:
    return (jnp.abs(a - b).max(-1) <= tolerance).mean((1, 2))

  pair = files.resolve(prompts, "target", reference, known)
  return {"rendered_equivalence": against(measure, images, *pair)}


@declare(loads=consistency.load_tower, applies=files.has("target"))
def feature_fidelity(
  images: Images,
  prompts: PromptBatch,
  *,
  encoder: Encoder,
  params: Params,
  reference: Reference | None = None,
  known: Known | None = None,
) -> Scores:
  """Minus the mean over patches of 1 - cosine of a DINO tower's features.

  0 for the true image, where its gradient vanishes too.
  A distance of features as a reward against hallucinations: Ren et al. 2025,
  https://arxiv.org/abs/2507.14367; which features and layer is unverified.

  Args:
    images: in [0, 1]; an image with a value that is not finite scores NaN.
    prompts: P prompts.
    encoder: the tower.
    params: of the tower.
    reference: the true image of each prompt.
    known: whether there is one; images of a prompt without it score NaN.
  """
  reference, known = files.resolve(prompts, "target", reference, known)
  score, usable = consistency.patch_score(encoder, params, images, reference)
  return {"feature_fidelity": jnp.where(usable & known, score, jnp.nan)}
