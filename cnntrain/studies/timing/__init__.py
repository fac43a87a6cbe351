"""How long networks take: forward, backward, step, and each stage alone."""
