"""Many requests from a file, answers to a file. ``commands/batch.py`` is the door.

lines ──► rows ──► pipeline (threads that call the engine) ──► output (order, resume, lock) ──► report
"""
