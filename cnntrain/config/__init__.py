"""From a composed configuration to a checked one, and from names to objects; Hydra's globals end here."""
