"""What happened as tables: SQL over them, and their export. A client of the server."""
