"""What a run keeps on disk. Start at `directory`; `stage` keeps its record true, `catalogue` finds runs again."""
