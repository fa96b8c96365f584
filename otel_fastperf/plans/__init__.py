"""Query plans: how each database is asked for one, what its answer says, and what is wrong in it. Pure."""
