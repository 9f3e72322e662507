"""The built-in procedural dataset: captioned images of shapes, with their ground truth."""
