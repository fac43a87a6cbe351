"""Where images come from: named datasets, image folders, splits."""
