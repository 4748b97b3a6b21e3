"""A page on which to try networks, and the server that answers it."""
