"""One model learning, in memory."""
