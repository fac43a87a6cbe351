"""What a developer of cnntrain runs."""
