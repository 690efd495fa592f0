"""Probability path, time schedules, samplers and their log-probabilities."""
