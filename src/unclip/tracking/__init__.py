"""Metrics, provenance and where they are written."""
