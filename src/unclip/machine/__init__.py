"""What this machine makes of training and sampling: see `unclip check-machine`."""
