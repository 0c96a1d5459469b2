c.HistoryManager.enabled = False  # noqa: F821
