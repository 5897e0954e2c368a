"""Views: the same snapshot in other words, so that more readers understand it. Pure."""
