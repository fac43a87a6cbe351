"""The project's random draws, where the data's modules look for them."""

from cnntrain.draws import generator as generator
