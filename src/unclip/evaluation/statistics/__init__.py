"""How sure a number is: intervals, tests, and how many samples they need. Float64, seeded."""
