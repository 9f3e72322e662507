"""What is in a source, and what is wrong with it."""
