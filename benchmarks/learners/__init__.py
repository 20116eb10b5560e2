"""One small module per library, so that every library is driven as its own trainer drives it."""
