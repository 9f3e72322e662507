"""The paper's figures from a cascade, as a page."""
