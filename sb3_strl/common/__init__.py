"""Pure functions and value objects that know nobody else in the library."""
