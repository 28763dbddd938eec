"""Is an accumulated gradient that of the union batch, and if not, why."""
