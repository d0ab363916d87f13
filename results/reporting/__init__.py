"""A study → its report: text, tables and charts."""
