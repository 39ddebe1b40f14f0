"""Training of valley-mini: a drawn world, questions about it, the model, and its measurement."""
