"""A local web page to play with a trained cascade; needs the `demo` extra."""
