"""What several passes share, and what one needs beside its rewrite."""
