"""Where tasks find their data, and how it is read: damage is said with file, line and reason."""
