"""What each stage of a network knows: linear classifiers on features, beside pixels, random weights, random labels."""
