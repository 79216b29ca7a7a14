"""The parts of the language-model example: corpus, training, checkpoints, metrics, report."""
