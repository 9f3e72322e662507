"""How a trained stage or cascade is evaluated, from its artifact to the figures."""
