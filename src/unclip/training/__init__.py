"""How a stage is trained: optimizers, EMA, callbacks, the trainer."""
