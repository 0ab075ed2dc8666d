"""From users' inputs to what models read: text to tokens, pictures to patches, and the checks on them."""
