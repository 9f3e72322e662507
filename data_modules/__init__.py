"""Where training data comes from: sources, order, transforms and one data module per stage."""
