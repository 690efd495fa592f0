"""Gradients by central differences, of float64 references."""

import numpy as np


def numeric_gradient(f, x, eps=1e-6):
  """df / dx for every entry of x, where f gives a number."""
  x = np.asarray(x, np.float64)
  grad = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[i] = eps
    grad[i] = (f(x + step) - f(x - step)) / (2 * eps)
  return grad
