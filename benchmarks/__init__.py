"""Programs that measure the library beside its peers."""
