"""`python -m fileserver.simulate`: every policy on your own requests."""
