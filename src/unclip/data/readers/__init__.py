"""Random access to captioned pictures on disk, one reader per file format."""
