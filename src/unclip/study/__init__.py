"""Studies with people: which of two cascades they prefer, as in table 1 of the paper."""
