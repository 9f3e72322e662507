"""Random access to captioned images on disk, one reader per file format."""
