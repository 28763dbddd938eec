"""How noisy the gradient is."""
