"""What a reader sees: tables, figures, the web page, the paper."""
