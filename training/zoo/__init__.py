"""From runs to the folders of the zoo, and the figures of their cards."""
