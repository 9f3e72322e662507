"""A cascade trained further on somebody's images."""
