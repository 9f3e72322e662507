"""What a training will cost, worked out without weights, data or a GPU."""
