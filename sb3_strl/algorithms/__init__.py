"""The loop, and the algorithms that declare objectives for it."""
