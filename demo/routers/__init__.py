"""The shop's endpoints, by what they are about."""
