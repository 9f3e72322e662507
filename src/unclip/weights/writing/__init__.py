"""The layouts of other projects, written."""
