"""The HTTP server: listeners, error shape, and the routes of the key-value store and admin."""
