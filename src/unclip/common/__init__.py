"""What anything may use and what knows no stage: types, errors, files, seeds, images, tables."""
