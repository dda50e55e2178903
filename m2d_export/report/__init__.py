"""Results as a page, as Markdown, as pictures and on a terminal."""
