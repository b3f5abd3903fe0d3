"""How weights, and what is kept beside them, move between the original's form and the converted model's."""
