"""Pages that need nothing beside themselves."""
