"""The networks of the paper, one per file."""
