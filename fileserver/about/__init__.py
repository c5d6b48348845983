"""What can be asked about the server itself, everything under `/-/`, and what is measured for that."""
