"""Bytes and frames: fetching with guards, decoding pictures (and, later, clips)."""
