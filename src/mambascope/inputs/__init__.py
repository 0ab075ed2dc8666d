"""From what people have to what models read: texts to tokens, pictures to patches; and what is checked of it."""
