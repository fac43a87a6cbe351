"""The commands, one file each: read the configuration, call one room, print."""
