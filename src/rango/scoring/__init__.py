"""How sure it is: token trees, and the scorer that turns any model into posteriors."""
