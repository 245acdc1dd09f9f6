"""Small trained models shipped with graphprune, and the scripts that made them."""
