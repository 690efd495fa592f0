"""Policies: networks that draw images and videos."""
