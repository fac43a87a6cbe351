"""What a network is invariant to: how far transformed images move its features, stage by stage."""
