"""Policies: networks that generate images and videos."""
