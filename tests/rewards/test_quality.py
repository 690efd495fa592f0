"""The reward for smooth pictures against a loop."""

import numpy as np
import pytest

from jaxreward.errors import UserError
from jaxreward.rewards import quality


def test_smooth_is_one_less_the_mean_laplacian():
  images = np.random.default_rng(0).random((2, 3, 5, 6, 3)).astype(np.float32)
  got = quality.smooth(images, None, limit=0.5)["smooth"]
  for place in np.ndindex(2, 3):
    x = images[place].astype(np.float64)
    each = [
      abs(4 * x[i, j] - x[i - 1, j] - x[i + 1, j] - x[i, j - 1] - x[i, j + 1])
      for i in range(1, 4)
      for j in range(1, 5)
    ]
    np.testing.assert_allclose(got[place], 1 - np.mean(each) / 0.5, rtol=1e-5)


def test_a_blank_picture_is_smooth_and_a_broken_one_fails():
  images = np.full((1, 2, 4, 4, 3), 0.3, np.float32)
  images[0, 1, 2, 2] = np.nan
  score = np.asarray(quality.smooth(images, None)["smooth"])
  np.testing.assert_allclose(score[0, 0], 1, atol=1e-6)
  assert np.isnan(score[0, 1])
  with pytest.raises(UserError, match="limit"):
    quality.smooth(images, None, limit=0.0)
