"""Finds, merges, checks, lists and writes experiment files."""
