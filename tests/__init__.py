"""A package, or one of the same name that other packages install would stand before it."""
