"""What a trained network is worth for other images: taken in several ways, seed by seed."""
