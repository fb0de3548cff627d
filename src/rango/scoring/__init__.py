"""From a model to posteriors: token trees, the batches that hold them, and the scorer."""
