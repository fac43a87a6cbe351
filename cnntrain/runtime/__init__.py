"""The ground: it knows no network."""
