"""Ways in: each turns its wire into the same calls, and errors into statuses by one table."""
