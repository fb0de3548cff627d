"""Which choice works: the plan of a study, its folder, and its execution."""
