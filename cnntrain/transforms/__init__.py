"""What studies do to images: transformations with an amount, and attacks."""
