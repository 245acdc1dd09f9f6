"""From coupled groups to a plan: scores, budgets, and what a choice costs."""
