"""Parts of benchmarks/kv_memory.py: tasks, a small model, memories, peers, losses of slots."""
