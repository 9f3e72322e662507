"""One LightningModule per stage: what a batch's loss is, what a sample is."""
