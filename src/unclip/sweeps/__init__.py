"""A sweep: many trials of one experiment with other values, their search and their results."""
