"""Which layers matter: trained with and without them, seed by seed."""
