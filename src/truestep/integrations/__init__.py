"""One foreign package a file: `truestep.integrations.transformers`, `.lightning`, `.accelerate`."""
