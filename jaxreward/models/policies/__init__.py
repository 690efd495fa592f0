"""Policies: networks that draw pictures and videos."""
