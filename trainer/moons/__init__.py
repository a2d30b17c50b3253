"""A dataset that needs no download: rendered photographs of the Moon, and a night to paint it into."""
