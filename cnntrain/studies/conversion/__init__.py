"""A classifier as a fully convolutional network: how exact its map is, what it saves, what it shows on large images."""
