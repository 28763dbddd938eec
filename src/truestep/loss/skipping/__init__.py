"""Steps that are not taken."""
