"""Writes a source as tar or parquet shards."""
