"""Other searches behind the interface of ours: what it has to beat, at equal scored tokens."""
