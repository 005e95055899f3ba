"""What commands print: text, tables, hints, and the schemas of their JSON."""
