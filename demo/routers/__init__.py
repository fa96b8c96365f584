"""The shop's endpoints, by subject."""
