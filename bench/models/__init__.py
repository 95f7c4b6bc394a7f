"""Models side by side on one server: a teacher, its sparse form, its students."""
