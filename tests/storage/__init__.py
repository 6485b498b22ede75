"""Tests of the storage layer, on real files and in memory."""
