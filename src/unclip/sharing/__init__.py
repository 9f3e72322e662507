"""Bundles: a run packed for others, read as strangers' files, and run again."""
