"""Settings of kernels in tests."""
c.HistoryManager.enabled = False  # noqa: F821
