"""Keeps the SQL projection true and rings whatever lost its doorbell."""
