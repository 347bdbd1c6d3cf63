"""From run directories to frames, statistics, tables and figures."""
