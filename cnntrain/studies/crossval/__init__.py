"""Cross-validation: every image predicted once by a network that has not seen it, variant by variant."""
