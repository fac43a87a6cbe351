"""Stages and layers, their shapes, costs and receptive fields."""
