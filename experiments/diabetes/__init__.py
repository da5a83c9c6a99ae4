"""Studies of type 1 diabetes."""
