"""Real pages: PDFs in Debian's packages, the text of their pages, and questions whose answers follow from it."""
