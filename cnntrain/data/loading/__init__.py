"""How batches are made: the device's own gather, or worker processes."""
