"""What the two priors share."""
