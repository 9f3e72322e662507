"""The paper's claims, tested in miniature: arms are trained, judged, compared and reported."""
