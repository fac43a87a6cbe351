"""Questions asked of networks: variants and seeds as ordinary runs, claimed by locks, made by a pool."""
