"""Files of weights from anywhere, read without running code of theirs."""
