"""Controls that use the missing scale: projection, the twin without decay, rescaling, and a held effective lr."""
