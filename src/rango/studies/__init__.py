"""Which choice works: grid, run store, execution."""
