"""What commands report: one document, written as text, Markdown or one page that needs nothing beside itself."""
