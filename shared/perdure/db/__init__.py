"""SQL: one function per question, connection first. Knows `core`, and nothing of the broker."""
