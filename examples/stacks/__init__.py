"""Parts of deep_stack.py: problems, gradients, training, pipelines, statistics, a picture."""
