"""A photograph painted in the style of a picture: Gatys, Ecker and Bethge, CVPR 2016, on the stages of any network."""
