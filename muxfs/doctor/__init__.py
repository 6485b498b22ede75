"""What `muxfs doctor` measures: one host's filesystem, and what two hosts see of each other.

Synchronous code for a worker thread, and no words for a terminal but the findings' own.
It knows files (`muxfs.storage`), but no sessions: what it measures, it measures bare.
"""
