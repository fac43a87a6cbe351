"""What networks see, have learned and decide by: one method a file, one gallery for all."""
