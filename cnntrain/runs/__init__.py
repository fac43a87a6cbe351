"""The life of one run: its folder, training, resumption, evaluation."""
