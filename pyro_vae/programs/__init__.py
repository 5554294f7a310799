"""What a model, a guide and a pair are, and how to run and read them."""
